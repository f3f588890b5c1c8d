"""Input statistics of sites, measured on calibration text: what weighs the error of a weight."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tlmtool.data.tasks import Batch, batches
from tlmtool.measuring.outputs import evaluating, last_hidden, position_limit

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
        return torch.addr(self.second, self.mean, self.mean, alpha=-1) if centred else self.second

    def energy(self, weight: Tensor) -> Tensor:
        """E|W x|^2 of a weight (O, I)."""
        return ((weight @ self.second) * weight).sum()

    def metric(self, centred: bool) -> Tensor:
        """The covariance, damped: C + 0.01 mean(diag C) 1."""
        return damped(self.covariance(centred), DAMPING)


def damped(c: Tensor, share: float) -> Tensor:
    """C plus `share` of its mean diagonal on the diagonal; the identity's share where C is 0."""
    c = c.clone()
    c.diagonal().add_(share * c.diagonal().mean().clamp_min(1e-12))
    return c


class Running:
    """Means over tokens of x (T, I) and of products with y (T, J): fp32 products, fp64 sums."""

    def __init__(self) -> None:
        self.count, self.sums = 0, {}

    def add(self, tokens: int, **terms: Tensor) -> None:
        self.count += tokens
        for name, term in terms.items():
            if name in self.sums:
                self.sums[name].add_(term)
            else:
                self.sums[name] = term.double()

    def means(self) -> dict[str, Tensor]:
        """Once, at the end: the sums themselves are divided, so that none is held twice."""
        return {name: total.div_(self.count) for name, total in self.sums.items()}


def product(y: Tensor, x: Tensor) -> Tensor:
    """sum_t y_t x_t^T (J, I), at least in float32."""
    return y.float().T @ x.float()


@contextmanager
def hooks(*handles: Any) -> Iterator[None]:
    """Hooks that are taken away again when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def real(x: Tensor, batch: Batch) -> Tensor:
    """x (B, N, I), or (B N, I) -> its rows at tokens that are not padding (T, I)."""
    mask = batch.inputs["attention_mask"].to(x.device).bool()
    return x.detach().flatten(0, -2)[mask.flatten()]


def prepared(
    model: nn.Module, tokenizer: Any, texts: list[str], max_length: int, tokens: int
) -> list[Batch]:
    """The calibration batches, tokenized once, of at most `tokens` tokens."""
    limit = min(max_length, position_limit(model) or max_length)
    return split(list(batches(tokenizer, texts, tokens, limit)), tokens)


def run(model: nn.Module, batch: Batch) -> None:
    """A forward pass, without dropout, for its hooks' sake."""
    with suppress(Stop), torch.no_grad(), evaluating(model):
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
    with hooks(*handles):
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
            running.add(len(x), mean=x.float().sum(0), second=product(x, x))
            if last:
                raise Stop

        return hook

    with ExitStack() as stack:
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


def output_metrics(
    model: nn.Module, sites: list[str], batches: list[Batch], seed: int = 0
) -> dict[str, Tensor]:
    """{site: G (O, O)}: how much the last hidden state h feels an error of the site's output.

    G = E[g g^T], g = d(v . h) / d output at each token, v standard normal: the Gauss-Newton matrix
    of |h|^2, so that tr(G dW C dW^T) predicts the squared change of h. One backward pass.
    """
    base, generator = model.base_model, torch.Generator().manual_seed(seed)
    sums = {site: Running() for site in sites}
    outputs: list[tuple[str, Tensor]] = []  # several of a table that encoder and decoder share

    def note(site: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            outputs.append((site, output if output.requires_grad else output.requires_grad_(True)))
            return output

        return hook

    flags = [p for p in model.parameters() if p.requires_grad]
    handles = [m.register_forward_hook(note(s)) for s in sites for m in _same(base, s)]
    with hooks(*handles), evaluating(model), torch.enable_grad():
        for p in flags:
            p.requires_grad_(False)
        try:
            for batch in batches:
                hidden = last_hidden(model, batch)
                v = torch.randn(hidden.shape, generator=generator).to(hidden.device)
                mask = batch.inputs["attention_mask"].to(hidden.device)
                aim = (hidden * v * mask[..., None]).sum()
                found = torch.autograd.grad(aim, [y for _, y in outputs], allow_unused=True)
                for (site, _), grad in zip(outputs, found, strict=True):
                    if grad is None:
                        continue
                    g = real(grad, batch)
                    sums[site].add(len(g), g=product(g, g))
                outputs.clear()
        finally:
            for p in flags:
                p.requires_grad_(True)
    return {site: damped(s.means()["g"], DAMPING) for site, s in sums.items() if s.count}


def _same(base: nn.Module, site: str) -> list[nn.Module]:
    """The module of a site; of an embedding every table that shares its weight."""
    module = base.get_submodule(site)
    if not isinstance(module, nn.Embedding):
        return [module]
    tables = (m for m in base.modules() if isinstance(m, nn.Embedding))
    return [m for m in tables if m.weight is module.weight]


def split(batches: list[Batch], tokens: int) -> list[Batch]:
    """The same texts in smaller batches, of about `tokens` tokens with padding."""
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
    """How often each row of an embedding is looked up (V,), float64, plus a half of one each."""
    counts = torch.full((rows,), 0.5, dtype=torch.float64)
    for batch in batches:
        ids = batch.inputs["input_ids"][batch.inputs["attention_mask"].bool()]
        counts += torch.bincount(ids, minlength=rows).double()
    return counts / counts.sum()


class Shelf:
    """Keeps one tensor for each site: in memory, or on disk once they outgrow `room` bytes."""

    def __init__(self, room: float):
        self.room, self.kept = room, {}
        self.folder: tempfile.TemporaryDirectory | None = None

    def put(self, site: str, value: Tensor) -> None:
        self.room -= value.nbytes
        if self.room < 0:
            self.folder = self.folder or tempfile.TemporaryDirectory(prefix="tlm-")
            file = Path(self.folder.name) / f"{len(self.kept)}.safetensors"
            save_file({"value": value.contiguous().cpu()}, file)
            self.kept[site] = file
        else:
            self.kept[site] = value

    def get(self, site: str, device: torch.device) -> Tensor | None:
        value = self.kept.get(site)
        return load_file(value)["value"].to(device) if isinstance(value, Path) else value
