"""Pretrained softmax attention -> kernels, layer after layer, each fitted to what the dense layer
gives on calibration text: its projections kept or made of its own, its output map in closed form.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.attention import Attention
from tlmtool.compression.calibration import Moments, Running, damp_, product, real
from tlmtool.compression.walking import Stop, Walk, hooks, place_of
from tlmtool.data.batching import Batch
from tlmtool.decompositions.btd import BTD
from tlmtool.models.attending import OutputBias, attend, heads_of, projections
from tlmtool.models.factorized import dense_weight, set_weight

MAP = "out"  # the learned tensor (..., E) of a kernel with an output map of its own
RIDGE = 0.01  # of the mean variance of the features, added to all in the least squares
Progress = Callable[[int, int], None]


def convert(
    model: Any,
    plan: dict[str, Attention],
    batches: list[Batch],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Swap the attention modules of the plan for kernels, in place, first to last.

    With calibration batches the output map of each is the ridge regression of the dense layer's
    output, in the dense model, on what the kernel gives in the converted one. A record for each:
    {"site", "attention", "parameters" before and after, "output_error"}: relative, on the batches.
    """
    dense = Walk(copy.deepcopy(model), batches) if batches else None
    walk, records = Walk(model, batches), []
    for done, (path, form) in enumerate(plan.items()):
        if progress:
            progress(done, len(plan))
        linears = projections(model, path)
        module = model.base_model.get_submodule(path)
        old = {role: model.base_model.get_submodule(site) for role, site in linears.items()}
        before, sizes = _parameters(model, path, linears["output"]), heads_of(module)
        attend(model, {path: form})
        if form.heads(*sizes) != sizes:
            _project(model, linears, old, form.heads(*sizes), sizes)
        error = None
        if dense is not None and form.length is None:  # N x N features are too many to fit
            for each in (walk, dense):
                place = place_of([path])
                each.reach(place.stack, place.index)
            error = _fit(walk, dense, path, linears["output"])
        after = _parameters(model, path, linears["output"])
        record = {"site": path, "attention": form.to_dict(), "output_error": error}
        records.append(record | {"parameters": {"before": before, "after": after}})
    return records


def _parameters(model: Any, path: str, output: str) -> int:
    base = model.base_model
    held = [*base.get_submodule(path).parameters(), *base.get_submodule(output).parameters()]
    return sum(p.numel() for p in {id(p): p for p in held}.values())


# ---- projections of another size: from block terms of the layer's own


def _project(
    model: Any,
    linears: dict[str, str],
    old: dict[str, nn.Module],
    wanted: tuple[int, int],
    sizes: tuple[int, int],
) -> None:
    """P blocks of rank R: the input factors of a BTD of each projection W (H, D, I), whose rows
    span what its block terms read of a token; scaled to the energy of W."""
    (blocks, rank), (heads, width) = wanted, sizes
    for role in ("query", "key", "value", "qkv"):
        if role not in linears:
            continue
        parts = 3 if role == "qkv" else 1
        made = []
        for weight in dense_weight(old[role]).chunk(parts):
            form = BTD(rank=min(rank, heads * width), blocks=blocks, modes=(heads, width))
            factors = form.decompose(weight)
            rows = factors["c"].mT * factors["core"].flatten(1, 2).norm(dim=1)[..., None]
            rows = rows * (weight.norm() / rows.norm().clamp_min(1e-12))  # (P, R', I)
            padded = rows.new_zeros(blocks, rank, rows.shape[-1])
            padded[:, : rows.shape[1]] = rows[:, :rank]
            made.append(padded.flatten(0, 1))
        set_weight(model.base_model.get_submodule(linears[role]), torch.cat(made))


# ---- the output map


@torch.no_grad()
def _fit(walk: Walk, dense: Walk, path: str, output: str) -> float:
    """Least squares for the output map of a converted module; the relative error that is left."""
    base = walk.model.base_model
    held, target = base.get_submodule(output), dense.model.base_model.get_submodule(output)
    kernel = base.get_submodule(path).kernel
    if isinstance(held, OutputBias):  # its features: the kernel's with an identity for a map
        kept = kernel[MAP]
        inner = kept.shape[:-1]
        eye = torch.eye(inner.numel(), dtype=kept.dtype, device=kept.device)
        kernel[MAP] = nn.Parameter(eye.reshape(*inner, -1))
    running = Running()
    for place, batch in enumerate(walk.batches):
        x = real(_seen(walk, held, place), batch)
        y = real(_given(dense, target, place), batch)
        terms = {"x": x.float().sum(0), "y": y.float().sum(0), "yy": y.float().square().sum()}
        running.add(len(x), xx=product(x, x), yx=product(y, x), **terms)
    means = running.means()
    bias = held.bias is not None
    moments = Moments(running.count, means["x"], means["xx"])
    cross = means["yx"] - torch.outer(means["y"], means["x"]) * bias
    covariance = moments.covariance(bias)
    solved = torch.linalg.solve(damp_(covariance.clone(), RIDGE), cross.mT).mT  # (E, F)
    power = means["yy"] - means["y"].square().sum() * bias
    left = power - 2 * (solved * cross).sum() + ((solved @ covariance) * solved).sum()
    if isinstance(held, OutputBias):
        fitted = solved.mT.reshape(*inner, -1).to(kept.dtype)
        kernel[MAP] = nn.Parameter(fitted.contiguous())
    else:
        set_weight(held, solved)
    if bias:
        held.bias.copy_(means["y"] - solved @ means["x"])
    return float((left.clamp_min(0) / power.clamp_min(1e-30)).sqrt())


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
