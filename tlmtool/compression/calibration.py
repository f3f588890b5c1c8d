"""Input statistics of sites, measured on calibration text: what weighs the error of a weight."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.tasks import Batch, batches
from ..measuring.outputs import evaluating, last_hidden, position_limit

DAMPING = 0.01  # of the mean diagonal, added to a covariance before it serves as a metric


class Stop(Exception):
    """Ends a forward pass that has shown what it was run for."""


@dataclass
class Moments:
    """Sums over tokens of an input x (I,): count, mean, second moment; float64."""

    count: int
    mean: Tensor  # (I,)
    second: Tensor  # (I, I)

    def covariance(self, centred: bool) -> Tensor:
        """E[x x^T], less the mean's part where a bias can carry it. (I, I)"""
        return self.second - torch.outer(self.mean, self.mean) if centred else self.second

    def energy(self, weight: Tensor) -> Tensor:
        """E|W x|^2 of a weight (O, I)."""
        return ((weight @ self.second) * weight).sum()

    def metric(self, centred: bool) -> Tensor:
        """The covariance, damped: C + 0.01 mean(diag C) 1."""
        return damped(self.covariance(centred), DAMPING)


def damped(c: Tensor, share: float) -> Tensor:
    """C plus `share` of its mean diagonal on the diagonal; the identity's share where C is 0."""
    size = c.diagonal().mean().clamp_min(1e-12)
    return c + share * size * torch.eye(len(c), dtype=c.dtype, device=c.device)


class Running:
    """Means over tokens of x (T, I) and of products with y (T, J): fp32 products, fp64 sums."""

    def __init__(self) -> None:
        self.count, self.sums = 0, {}

    def add(self, tokens: int, **terms: Tensor) -> None:
        self.count += tokens
        for name, term in terms.items():
            term = term.double()
            self.sums[name] = self.sums[name] + term if name in self.sums else term

    def means(self) -> dict[str, Tensor]:
        return {name: total / self.count for name, total in self.sums.items()}


def product(y: Tensor, x: Tensor) -> Tensor:
    """sum_t y_t x_t^T (J, I), at least in float32."""
    return y.float().T @ x.float()


@contextmanager
def hooks(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def real(x: Tensor, batch: Batch) -> Tensor:
    """x (B, N, I) -> its rows at tokens that are not padding (T, I)."""
    mask = batch.inputs["attention_mask"].to(x.device).bool()
    return (x[mask] if x.shape[:2] == mask.shape else x.flatten(0, -2)).detach()


def prepared(model: nn.Module, tokenizer: Any, texts: list[str], batch: int, max_length: int):
    """The calibration batches, tokenized once."""
    limit = min(max_length, position_limit(model) or max_length)
    return list(batches(tokenizer, texts, batch, limit))


def run(model: nn.Module, batch: Batch) -> None:
    """A forward pass for its hooks' sake."""
    with suppress(Stop):
        last_hidden(model, batch)


def groups_of(model: nn.Module, sites: list[str], batch: Batch) -> list[list[str]]:
    """Sites that read the very same input, in the order in which the model runs them."""
    seen: dict[int, list[str]] = {}
    kept = []  # so that no id is used twice
    base = model.base_model

    def note(site: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            kept.append(args[0])
            seen.setdefault(id(args[0]), []).append(site)

        return hook

    handles = [base.get_submodule(s).register_forward_pre_hook(note(s)) for s in sites]
    with hooks(*handles), evaluating(model):
        run(model, batch)
    return list(seen.values())


def input_moments(
    model: nn.Module, groups: list[list[str]], batches: list[Batch], tick: Callable | None = None
) -> list[Moments]:
    """Moments of the input of each group of sites: one pass over the batches."""
    base, sums = model.base_model, [Running() for _ in groups]
    current: list[Batch] = []

    def note(running: Running, last: bool) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            x = real(args[0], current[0])
            running.add(len(x), mean=x.double().sum(0), second=product(x, x))
            if last:
                raise Stop

        return hook

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for k, (sites, running) in enumerate(zip(groups, sums, strict=True)):
            hook = note(running, k == len(groups) - 1)
            handle = base.get_submodule(sites[0]).register_forward_pre_hook(hook)
            stack.enter_context(hooks(handle))
        for batch in batches:
            current[:] = [batch]
            run(model, batch)
            if tick:
                tick(1)
    return [Moments(r.count, **r.means()) for r in sums]


def token_frequencies(batches: list[Batch], rows: int) -> Tensor:
    """How often each row of an embedding is looked up (V,), float64, plus a half of one each."""
    counts = torch.full((rows,), 0.5, dtype=torch.float64)
    for batch in batches:
        ids = batch.inputs["input_ids"][batch.inputs["attention_mask"].bool()]
        counts += torch.bincount(ids, minlength=rows).double()
    return counts / counts.sum()
