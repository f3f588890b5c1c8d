"""The part of profile that measures attention kernels alone: which, in what shape, its report."""

from dataclasses import fields, replace

import torch

from tlmtool.attention import NAMES, Attention, named
from tlmtool.commands.run import Run
from tlmtool.compression.choosing import kernel_of
from tlmtool.failure import Usage
from tlmtool.measuring.complexity import NOTE, Case, Softmax, check, complexity, waiting
from tlmtool.models import checkpoint
from tlmtool.models.attending import attention_sites, heads_of, projections
from tlmtool.models.factorized import shape
from tlmtool.models.folder import Folder
from tlmtool.recipe.attention import Attending, flag
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.profiling import SOFTMAX
from tlmtool.report import plots
from tlmtool.report.building import built
from tlmtool.report.parts.complexity import Complexity
from tlmtool.report.parts.ending import Note
from tlmtool.report.parts.model import Model
from tlmtool.report.report import Report

HEADS, WIDTH = 8, 64  # the defaults of --heads and --head-width


def measured(run: Run) -> Report:
    """What each kernel costs at each length; draws `--plot`."""
    recipe, wanted = run.recipe, run.recipe.profiling
    kernels = kernels_of(wanted.attention, recipe.attention)
    file = None if wanted.plot is None else plots.ready(wanted.plot)
    with run.stage("load"):
        case = case_of(recipe)
    check(kernels, wanted.seq_len, case)
    with run.stage("profile"):
        bars = run.bars.of("profiling"), run.bars.line
        costs = complexity(kernels, wanted.seq_len, case, wanted.runs, *bars)
        found = built(Complexity, costs)
    if file is not None:
        with run.stage("plot"):
            plots.complexity(found, file)
    model = Model(id=recipe.model, out=None if file is None else str(file))
    return run.report([model, found, Note(note=NOTE)], waiting(costs))


def kernels_of(names: tuple[str, ...], wanted: Attending) -> dict[str, Attention]:
    """{name: kernel}, each with the choices that it has.

    Raises Usage for a choice that none of them has, and for one that a kernel refuses."""
    has = {name: {field.name for field in fields(named(name))} for name in NAMES}
    given = [key for key, value in vars(wanted).items() if value is not None]
    for key in given:
        holders = [name for name in NAMES if key in has[name]]
        if not set(holders) & set(names):
            raise Usage(
                f"{flag(key)} is a choice of {' and '.join(holders)}, "
                f"which --attention {','.join(names)} does not name"
            )
    found: dict[str, Attention] = {}
    for name in names:
        if name == SOFTMAX:
            found[name] = Softmax()
        else:
            foreign = {key: None for key in given if key not in has[name]}
            found[name] = kernel_of(replace(wanted, kind=name, **foreign))
    return found


def case_of(recipe: Recipe) -> Case:
    """How the kernels are called: as in MODEL, or with the heads of the recipe."""
    wanted, causal = recipe.profiling, recipe.profiling.causal
    if recipe.model is None:
        heads, width = wanted.heads or HEADS, wanted.head_width or WIDTH
        features = heads * width
    else:
        model = checkpoint.empty(Folder.of(recipe.model, recipe.revision))
        try:
            path = attention_sites(model)[0]
        except ValueError as error:
            raise Usage(str(error)) from None
        module = model.base_model.get_submodule(path)
        (heads, width), causal = heads_of(module), causal or module.is_causal
        features = shape(model.base_model.get_submodule(projections(model, path)["output"]))[0]
    dtype = torch.float32 if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    device = checkpoint.device_of(recipe.device)
    return Case(heads, width, features, wanted.batch, causal, wanted.backward, dtype, device)
