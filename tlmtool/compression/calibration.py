"""Input statistics of sites, measured on calibration text. They weigh the error of a weight."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.shelving import Disk, room, taken_from
from tlmtool.compression.walking import Stop, Walk, aligned, hooks
from tlmtool.data.batching import Batch, encode, in_batches
from tlmtool.data.windows import Windows
from tlmtool.measuring.outputs import position_limit

DAMPING = 0.01  # share of the mean diagonal added to a covariance before it serves as a metric; a
# larger one trusts the text less
STRIPE = 512  # columns of a large product that are computed at once; more take more memory
STRIPES = 4  # in which the product of inputs with themselves is computed
LARGE = 2**25  # numbers; a sum of more of them is kept in float32, because in float64 it would be
# the largest tensor of a compression


@dataclass
class Moments:
    """Moments over tokens of an input x (I,): count, mean and second moment, in float64; a second
    moment of more than `LARGE` numbers in float32."""

    count: int
    mean: Tensor  # (I,)
    second: Tensor  # (I, I)

    def covariance(self, centred: bool) -> Tensor:
        """E[x x^T] (I, I), a new tensor in float64; if `centred`, without the part of the mean."""
        found = self.second.to(torch.float64, copy=True)
        return found.addr_(self.mean, self.mean, alpha=-1) if centred else found

    def energy(self, weight: Tensor) -> Tensor:
        """E|W x|^2 of a weight (O, I)."""
        return ((weight @ self.second.double()) * weight).sum()

    def metric(self, centred: bool) -> Tensor:
        """The covariance, damped: C + 0.01 mean(diag C) 1."""
        return damp_(self.covariance(centred), DAMPING)


def damp_(c: Tensor, share: float) -> Tensor:
    """Add `share` of the mean diagonal of C to its diagonal, in place; of 1e-12 where C is zero."""
    c.diagonal().add_(share * c.diagonal().mean().clamp_min(1e-12))
    return c


def cholesky_(c: Tensor) -> Tensor:
    """The lower triangular L with L L^T = C, in the memory of C (I, I)."""
    return torch.linalg.cholesky(c.mT, out=c.mT)  # C^T is C, and is laid out as LAPACK wants it


class Running:
    """Means over tokens of x (T, I) and of its products with y (T, J).

    Products are computed in float32 and summed in float64; large ones in float32 (`LARGE`).
    """

    def __init__(self) -> None:
        self.count, self.sums = 0, {}

    def add(
        self, tokens: int, squares: Mapping[str, Tensor] | None = None, **terms: Tensor
    ) -> None:
        """Add terms that are sums over tokens; and of each x (T, I) in `squares` x^T x (I, I)."""
        self.count += tokens
        for name, x in (squares or {}).items():
            size = x.shape[1]
            if size * size <= LARGE:
                terms[name] = product(x, x)
                continue
            if name not in self.sums:
                self.sums[name] = x.new_zeros(size, size, dtype=torch.float32)
            _add_square_(self.sums[name], x.float())
        for name, term in terms.items():
            if name in self.sums:
                self.sums[name].add_(term)
            else:
                self.sums[name] = term.double() if term.numel() <= LARGE else term

    def means(self) -> dict[str, Tensor]:
        """The means. Call it once, at the end: the sums are divided in place to save memory."""
        return {name: total.div_(self.count) for name, total in self.sums.items()}


def product(y: Tensor, x: Tensor) -> Tensor:
    """sum_t y_t x_t^T (J, I), in at least float32. Of x with itself only a little more than one
    half is computed: the product is symmetric."""
    if y is not x:
        return y.float().T @ x.float()
    x, size = x.float(), x.shape[1]
    found = x.new_empty(size, size)
    width = max(64, -(-size // STRIPES))  # narrower stripes compute less, but each more slowly
    for start in range(0, size, width):
        stripe = x[:, start : start + width].T @ x[:, start:]
        found[start : start + width, start:] = stripe
        found[start:, start : start + width] = stripe.T
    return found


def _add_square_(total: Tensor, x: Tensor) -> None:
    """Add x^T x to a total (I, I) in stripes: a whole product would be as large as the total."""
    for start in range(0, x.shape[1], STRIPE):
        stop = start + STRIPE
        stripe = x[:, start:stop].T @ x[:, start:]
        total[start:stop, start:] += stripe
        total[stop:, start:stop] += stripe[:, STRIPE:].T


def real(x: Tensor, batch: Batch) -> Tensor:
    """x (B, N, I) or (B N, I) -> its rows at tokens that are not padding, (T, I)."""
    mask = batch.inputs["attention_mask"].to(x.device).bool()
    return x.detach().flatten(0, -2)[mask.flatten()]


def prepared(
    model: nn.Module, tokenizer: Any, texts: list[str] | Windows, max_length: int, tokens: int
) -> list[Batch]:
    """The calibration batches, tokenized once; each of at most `tokens` tokens with padding.
    Texts are cut to `max_length`, and windows of tokens are taken as they are."""
    if not isinstance(texts, dict):
        limit = min(max_length, position_limit(model) or max_length)
        texts = encode(tokenizer, texts, max_length=limit)
    return split(list(in_batches(tokenizer, texts, tokens)), tokens)


def input_moments(
    walk: Walk, groups: list[list[str]], once: bool = True, stack: str = ""
) -> list[Moments]:
    """Moments of the input of each group of sites; `groups` in the order in which the model runs.

    It takes one pass over the batches, from where the walk stands to the last group; to the end
    unless each site is called `once` in a pass. Where the groups are those of the next block of a
    `stack`, the walk advances over it. Inputs without a row for each token do not count.
    """
    base, sums = walk.model.base_model, [Running() for _ in groups]

    def note(running: Running, last: bool) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            batch = walk.batches[walk.place]
            if not aligned(args[0], batch):
                return
            x = real(args[0], batch)
            running.add(len(x), {"second": x}, mean=x.float().sum(0))
            if last:
                raise Stop

        return hook

    with ExitStack() as watching:
        for k, (sites, running) in enumerate(zip(groups, sums, strict=True)):
            hook = note(running, once and not stack and k == len(groups) - 1)
            handle = base.get_submodule(sites[0]).register_forward_pre_hook(hook)
            watching.enter_context(hooks(handle))
        if stack:
            walk.advance(stack)
        for place in () if stack else range(len(walk.batches)):
            walk.run(place)
    return [Moments(r.count, **r.means()) for r in sums]


def split(batches: list[Batch], tokens: int) -> list[Batch]:
    """The same texts in smaller batches of about `tokens` tokens, padding included."""
    parts = []
    for batch in batches:
        length = batch.inputs["input_ids"].shape[1]
        rows = max(1, tokens // length)
        for a in range(0, len(batch.indices), rows):
            cut = {k: v[a : a + rows] for k, v in batch.inputs.items()}
            width = int(cut["attention_mask"].sum(1).max())
            cut = {k: v[:, :width] for k, v in cut.items()}
            special = batch.special[a : a + rows, :width]
            parts.append(Batch(batch.indices[a : a + rows], cut, special))
    return parts


def token_frequencies(batches: list[Batch], rows: int) -> Tensor:
    """How often each row of an embedding is looked up, (V,) float64; each has half a time more."""
    counts = torch.full((rows,), 0.5, dtype=torch.float64)
    for batch in batches:
        ids = batch.inputs["input_ids"][batch.inputs["attention_mask"].bool()]
        counts += torch.bincount(ids, minlength=rows).double()
    return counts / counts.sum()


class Shelf:
    """Keeps tensors under keys, in memory; on disk once they take more than `most` bytes, or more
    than the memory allows (`shelving`)."""

    def __init__(self, most: float):
        self.room, self.kept = min(most, room()), {}
        self.disk: Disk | None = None

    def put(self, key: Hashable, values: list[Tensor]) -> None:
        self.room -= sum(value.nbytes for value in values)
        if self.room < 0:
            self.disk = self.disk or Disk()
            self.kept[key] = self.disk.put(values)
        else:
            self.kept[key] = values

    def get(self, key: Hashable, device: torch.device) -> list[Tensor]:
        """The tensors of a key, on a device; raises KeyError for a key that was never put."""
        values = self.kept[key]
        found = taken_from(values) if isinstance(values, Path) else values
        return [value.to(device) for value in found]
