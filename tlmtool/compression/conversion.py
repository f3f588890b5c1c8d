"""Pretrained softmax attention -> kernels, layer after layer, each fitted on calibration text.

Projections are kept, or made from the layer's own if the kernel wants other sizes. The output map
is fitted by least squares to what the dense layer gives.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tlmtool.attention import Attention
from tlmtool.compression.mapping import fit
from tlmtool.compression.walking import Walk, place_of
from tlmtool.data.batching import Batch
from tlmtool.decompositions.btd import BTD
from tlmtool.models.attending import attend, heads_of, projections
from tlmtool.models.factorized import dense_weight, set_weight

Progress = Callable[[int, int], None]


def convert(
    model: Any,
    plan: dict[str, Attention],
    batches: list[Batch],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Swap the attention modules of the plan for kernels, in place, first to last.

    With calibration batches the output map of each becomes a ridge regression: of the dense layer's
    output in the dense model, on what the kernel gives in the converted one. A factorized output
    projection keeps its decomposition.

    Returns a record for each: {"site", "attention", "parameters": {"before", "after"},
    "output_error"}. The error is relative and measured on the batches. For a kernel made for one
    length it is that on texts held out of the fit, which also chose the damping.
    """
    dense = Walk(copy.deepcopy(model), batches) if batches else None
    walk, records = Walk(model, batches), []
    for done, (path, kernel) in enumerate(plan.items()):
        if progress:
            progress(done, len(plan))
        linears = projections(model, path)
        module = model.base_model.get_submodule(path)
        old = {role: model.base_model.get_submodule(site) for role, site in linears.items()}
        before, sizes = _parameters(model, path, linears["output"]), heads_of(module)
        attend(model, {path: kernel}, fitted=dense is not None)
        if kernel.heads(*sizes) != sizes:
            _project(model, linears, old, kernel.heads(*sizes), sizes)
        error = None
        if dense is not None:
            for each in (walk, dense):
                place = place_of([path])
                each.reach(place.stack, place.index)
            error = fit(walk, dense, path, linears["output"])
        after = _parameters(model, path, linears["output"])
        record = {"site": path, "attention": kernel.to_dict(), "output_error": error}
        records.append(record | {"parameters": {"before": before, "after": after}})
    return records


def _parameters(model: Any, path: str, output: str) -> int:
    """Of an attention module and its output projection, each counted once."""
    base = model.base_model
    held = [*base.get_submodule(path).parameters(), *base.get_submodule(output).parameters()]
    return sum(p.numel() for p in {id(p): p for p in held}.values())


# ---- projections of another size, from block terms of the layer's own


def _project(
    model: Any,
    linears: dict[str, str],
    old: dict[str, nn.Module],
    wanted: tuple[int, int],
    sizes: tuple[int, int],
) -> None:
    """Give the projections P blocks of rank R: the input factors of a BTD of each W (H, D, I).

    Their rows span what the block terms read of a token. They are scaled to the norm of W.
    """
    (blocks, rank), (heads, width) = wanted, sizes
    for role in ("query", "key", "value", "qkv"):
        if role not in linears:
            continue
        parts = 3 if role == "qkv" else 1
        made = []
        for weight in dense_weight(old[role]).chunk(parts):
            btd = BTD(rank=min(rank, heads * width), blocks=blocks, modes=(heads, width))
            factors = btd.decompose(weight)
            rows = factors["c"].mT * factors["core"].flatten(1, 2).norm(dim=1)[..., None]
            rows = rows * (weight.norm() / rows.norm().clamp_min(1e-12))  # (P, R', I)
            padded = rows.new_zeros(blocks, rank, rows.shape[-1])
            padded[:, : rows.shape[1]] = rows[:, :rank]
            made.append(padded.flatten(0, 1))
        set_weight(model.base_model.get_submodule(linears[role]), torch.cat(made))
