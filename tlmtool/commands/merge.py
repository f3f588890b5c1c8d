"""The verb merge: Recipe -> Report."""

from dataclasses import replace
from typing import Any

import torch

from tlmtool.commands.costs import Costs
from tlmtool.commands.provenance import provenance
from tlmtool.commands.run import Run, out_folder
from tlmtool.failure import Usage
from tlmtool.measuring.comparison import check, parity, probe
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.models.kernels import converted
from tlmtool.models.modeling import merge as merge_model
from tlmtool.models.surgery import factorized
from tlmtool.recipe.building import Recipe
from tlmtool.report.checks import checked_figure
from tlmtool.report.report import Report


def merge(recipe: Recipe) -> Report:
    """Multiply the factors out, check that the model computes the same, write a plain checkpoint.

    A quantized checkpoint is read as floats, and floats are written: with or without factors.
    The model is merged and compared in float32, each product in float64. Then it is rounded to the
    dtype of the stored factors, or to `--dtype`, and the report says what the rounding changed.
    """
    out = out_folder(recipe, "dense")
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe) as run, PeakMemory(checkpoint.device_of(recipe.device)) as memory:
        empty = run.empty(folder)
        if not any(factorized(empty)) and not folder.quantized:
            kernels = any(converted(empty))
            why = "and its attention cannot be merged" if kernels else "so it is plain already"
            raise Usage(f"{recipe.model} holds no factors, {why}: there is nothing to merge")
        rounded = set(_dtypes(empty, recipe.dtype).values()) != {torch.float32}
        if checked_figure(recipe.output.fail_if).endswith("rounding") and not rounded:
            raise Usage(f"{recipe.model} is merged in float32, where nothing is rounded to check")
        model = run.load(folder, "auto")
        source = provenance(recipe, folder, model, out)
        costs, dtypes = Costs(model), _dtypes(model, recipe.dtype)
        with run.stage("merge"):
            before = probe(model.float(), recipe.seed)
            after = probe(merge_model(model), recipe.seed)
            found = parity(after, before)
        check(found, f"the merged model differs from {recipe.model}", model)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(dtypes[name])
        if rounded:
            rounding = parity(probe(model, recipe.seed), after).relative
            found = replace(found, rounding=rounding)
        parts = [source, *costs.and_after(model), found]
    return run.save(model, folder, out, parts, peak=memory.bytes)


def _dtypes(model: Any, wanted: str) -> dict[str, torch.dtype]:
    """{parameter of the merged model: its dtype}: as stored, or as wanted."""
    found = {name: p.dtype for name, p in model.named_parameters(remove_duplicate=False)}
    for path, module in factorized(model):
        dtype = next(iter(module.factors.values())).dtype
        found |= {f"{path}.weight": dtype, f"{path}.bias": dtype}
    return found if wanted == "auto" else dict.fromkeys(found, getattr(torch, wanted))
