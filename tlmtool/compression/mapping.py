"""The output map of a converted module, by least squares: the nearest to what the layer gave."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.attention.base import OUT, Tensors
from tlmtool.compression.calibration import Moments, Running, damp_, product, real
from tlmtool.compression.ridge import HELD, dual, most_rows
from tlmtool.compression.walking import Stop, Walk, hooks
from tlmtool.data.batching import Batch
from tlmtool.failure import CheckFailed
from tlmtool.models.attending import OutputBias
from tlmtool.models.factorized import Factorized, bias_of, dense_weight, set_weight
from tlmtool.models.surgery import factorize, let_go

RIDGE = 0.01  # share of the features' mean variance, added to all of them in the least squares: a
# larger one gives a smaller map


@torch.no_grad()
def fit(walk: Walk, dense: Walk, path: str, output: str) -> float | None:
    """Fit the output map of a converted module, which both walks stand before, by least squares.

    Returns the relative error. A kernel made for one length has more features (N x N) than there
    are tokens, so it is fitted on as many tokens as memory holds. Its error is then that on texts
    held out, which also chose the damping; None if no text is held out. Raises CheckFailed if the
    layer gives NaN or infinity, or the kernel in its place does.
    """
    base = walk.model.base_model
    if base.get_submodule(path).mixing.length is not None:
        return _pairs(walk, dense, path, output)
    held, target = base.get_submodule(output), dense.model.base_model.get_submodule(output)
    kernel = base.get_submodule(path).kernel
    if isinstance(held, OutputBias):  # an identity as map makes the kernel give its features
        kept = kernel[OUT]
        inner = kept.shape[:-1]
        eye = torch.eye(inner.numel(), dtype=kept.dtype, device=kept.device)
        kernel[OUT] = nn.Parameter(eye.reshape(*inner, -1))
    running = Running()
    for place, batch in enumerate(walk.batches):
        x = real(_seen(walk, held, place), batch)
        y = real(_given(dense, target, place), batch)
        terms = {"x": x.float().sum(0), "y": y.float().sum(0), "yy": y.float().square().sum()}
        running.add(len(x), xx=product(x, x), yx=product(y, x), **terms)
    means = running.means()
    _check(path, *means.values())
    bias = bias_of(held)
    centred = bias is not None
    moments = Moments(running.count, means["x"], means["xx"])
    cross = means["yx"] - torch.outer(means["y"], means["x"]) * centred
    covariance = moments.covariance(centred)
    damped = damp_(covariance.clone(), RIDGE)
    solved = torch.linalg.solve(damped, cross.mT).mT  # (E, F)
    if isinstance(held, OutputBias):
        fitted = solved.mT.reshape(*inner, -1).to(kept.dtype)
        kernel[OUT] = nn.Parameter(fitted.contiguous())
    else:
        solved = _put(walk.model, output, solved, damped)
    if centred:
        bias.copy_(means["y"] - solved @ means["x"])
    power = means["yy"] - means["y"].square().sum() * centred
    left = power - 2 * (solved * cross).sum() + ((solved @ covariance) * solved).sum()
    return float((left.clamp_min(0) / power.clamp_min(1e-30)).sqrt())


def _put(model: Any, site: str, weight: Tensor, metric: Tensor) -> Tensor:
    """Give the linear at a site the weight W (O, I); returns the W that it then has, in float64.

    A factorized one keeps its decomposition, whose error the metric weighs.
    """
    held = model.base_model.get_submodule(site)
    if isinstance(held, Factorized):
        wanted = held.decomposition
        set_weight(let_go(model, site), weight)
        factorize(model, {site: wanted}, {site: metric} if wanted.takes_metric else None)
    else:
        set_weight(held, weight)
    return dense_weight(model.base_model.get_submodule(site)).double()


def _check(path: str, *found: Tensor) -> None:
    """Raises CheckFailed unless all is finite."""
    if not all(bool(each.isfinite().all()) for each in found):
        raise CheckFailed(
            f"{path} cannot be fitted: it, or the kernel in its place, gives NaN or infinity on "
            "the calibration text, so nothing was written"
        )


# ---- a kernel made for one length


def _pairs(walk: Walk, dense: Walk, path: str, output: str) -> float | None:
    """As `fit`, for a kernel made for one length: through the dual problem."""
    base = walk.model.base_model
    module, kept = base.get_submodule(path), base.get_submodule(output)
    target, size = dense.model.base_model.get_submodule(output), module.mixing.length**2
    parts: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for place, drawn in _drawn(walk.batches, most_rows(size)):
        called, y = _called(walk, module, place), _given(dense, target, place)
        y = y.reshape(len(walk.batches[place].indices), -1, y.shape[-1])
        for row, length, rows, held in drawn:
            *qkv, tensors, causal = called
            q, k, v = (x[row : row + 1, :, :length] for x in qkv)
            rows = rows.to(q.device)
            x = module.mixing.features(q, k, v, tensors, rows, causal)
            parts[held].append((x.flatten(1), y[row, rows].float()))
    x, y = (torch.cat(each) for each in zip(*parts[False], *parts[True], strict=True))
    _check(path, x, y)
    fitted = sum(len(x) for x, _ in parts[False]) or len(x)  # if all texts are held out, none is
    del parts
    bias, shape = bias_of(kept), module.kernel[OUT].shape
    found = dual(x, y, fitted, bias is not None)
    module.kernel[OUT] = nn.Parameter(found.map.reshape(shape).to(module.kernel[OUT].dtype))
    if bias is not None:
        bias.copy_(found.bias)
    return found.error


def _drawn(
    batches: list[Batch], most: int
) -> Iterator[tuple[int, list[tuple[int, int, Tensor, bool]]]]:
    """(batch, [(text in it, its length, some of its tokens, whether it is held out)]).

    At most `most` tokens in all, drawn evenly. A text that is the only one is not held out.
    """
    lengths = [batch.inputs["attention_mask"].sum(1).tolist() for batch in batches]
    texts = sum(map(len, lengths))
    every, total, done = min(HELD, texts), sum(map(sum, lengths)), 0
    draw, taken = torch.Generator().manual_seed(0), torch.zeros(total, dtype=torch.bool)
    taken[torch.randperm(total, generator=draw)[:most]] = True
    spans = iter(taken.split([n for each in lengths for n in each]))
    for place, each in enumerate(lengths):
        found = []
        for row, n in enumerate(each):
            held = texts > 1 and (done + row) % every == every - 1
            if len(rows := next(spans).nonzero()[:, 0]):
                found.append((row, n, rows, held))
        done += len(each)
        yield place, found


class _Caller:
    """Stands in for a kernel and keeps what it is called with."""

    def apply(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, real: Any = None, causal: Any = 0
    ) -> None:
        self.got = q, k, v, tensors, bool(causal)
        raise Stop

    def stream(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, state: Any = None, real: Any = None
    ) -> None:
        self.apply(q, k, v, tensors, real, True)


def _called(
    walk: Walk, module: nn.Module, place: int
) -> tuple[Tensor, Tensor, Tensor, Tensors, bool]:
    """(q, k, v, tensors, causal) that the kernel of a module gets in the run of a batch."""
    kernel, module.mixing = module.mixing, _Caller()
    try:
        walk.run(place)
        return module.mixing.got
    finally:
        module.mixing = kernel


def _seen(walk: Walk, module: nn.Module, place: int) -> Tensor:
    """The input of a module in the run of a batch."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple) -> None:
        kept.append(args[0])
        raise Stop

    with hooks(module.register_forward_pre_hook(keep)):
        walk.run(place)
    return kept[0]


def _given(walk: Walk, module: nn.Module, place: int) -> Tensor:
    """The output of a module in the run of a batch."""
    return walk.output(place, module)
