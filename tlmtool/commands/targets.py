"""Budgets of the whole model (`--target-size`, `--target-parameters`), as `--keep` of the sites."""

import copy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tlmtool.commands.run import Run
from tlmtool.compression.candidates import Candidates, select
from tlmtool.compression.drafting import Draft
from tlmtool.compression.fits import Limit
from tlmtool.compression.planning import methods
from tlmtool.failure import Usage
from tlmtool.files.numbers import size as bytes_of
from tlmtool.measuring.counting import count_parameters
from tlmtool.models.factorized import first_of
from tlmtool.models.footprint import file_bytes
from tlmtool.models.surgery import factorize
from tlmtool.recipe.building import Recipe
from tlmtool.report.figures import human
from tlmtool.report.parts.calibration import Allocation
from tlmtool.report.parts.ending import Ending
from tlmtool.report.report import Report

WIDER = (("attention", "ffn"), ("all",), ("linears", "embedding"))  # sites that would help


@dataclass(frozen=True)
class Least:
    """The least that some sites leave of a model: each has rank 1, or stays dense where that is
    smaller. `sites`: their parameters then, and as `dense` weights; `whole`: the parameters of the
    model; `bytes`: of its files; `item`: bytes of one more parameter."""

    sites: int
    dense: int
    whole: int
    bytes: int
    item: int


def translated(recipe: Recipe, model: Any) -> Recipe:
    """The recipe with `--keep` in the place of a target for the whole model.

    `model`: on the meta device. Raises Usage for a target that the chosen sites cannot reach, or
    that the model is below already."""
    wanted = recipe.compression
    if not (flag := target_of(recipe)):
        return recipe
    if recipe.quantization.bits and wanted.target_size is not None:
        return _to_keep(recipe, begun(recipe, model)[1])
    found = least(recipe, model, wanted.sites)
    if (spare := _spare(recipe, model, found)) < 0:
        raise Usage(
            f"{flag} cannot be reached: with --sites {','.join(wanted.sites)} the least, at rank "
            f"1, is {_shown(recipe, model, found)}{_helped(recipe, model)}"
        )
    keep = (found.sites + spare) / found.dense
    if keep >= 1:
        size = human(file_bytes(model, bytes_of(recipe.output.max_shard_size)), "B")
        raise Usage(f"{flag} leaves nothing to compress: the model takes about {size} as it is")
    return _to_keep(recipe, keep)


def _to_keep(recipe: Recipe, keep: float) -> Recipe:
    """The recipe with a share of the sites in the place of a target."""
    kept = replace(recipe.compression, keep=keep, target_size=None, target_parameters=None)
    return replace(recipe, compression=kept)


def limit_of(recipe: Recipe, model: Any) -> Limit | None:
    """The bytes that `--target-size` leaves to files in few bits; None for other budgets."""
    if recipe.quantization.bits is None or recipe.compression.target_size is None:
        return None
    return begun(recipe, model)[0]


def begun(recipe: Recipe, model: Any) -> tuple[Limit, float]:
    """(the limit of files in few bits, about the keep that it is). What a keep takes is known once
    the losses of the sites are. Raises Usage where no keep reaches it, or every one does."""
    wanted, bits = recipe.compression, recipe.quantization.bits
    assert bits is not None and wanted.target_size is not None
    flag, weighed = target_of(recipe), recipe.calibration.text != "none"
    found = Limit(
        copy.deepcopy(model),
        bytes_of(wanted.target_size),
        bits,
        recipe.quantization.embedding_bits,
        wanted.plain,
        bytes_of(recipe.output.max_shard_size),
        flag,
    )
    sites = Candidates(model, select(model, wanted.sites, wanted.ignore), wanted.blocks, bits)
    name, draft = methods(wanted.method, weighed, bits)[0], Draft()
    dense = sum(prod(sites.shape(site)) for site in sites.roles)
    kept = dense
    for site in sites.roles:
        o, i = sites.shape(site)
        smaller = o * i > o + i and sites.takes(site, name)
        draft.take(sites, site, sites.first(site, name) if smaller else None)
        if site in draft.plan:
            kept -= o * i - sites.size(site, draft.plan[site])
    least, most = found.taken(draft.plan), found.taken({})
    if found.bytes < least:
        raise Usage(
            f"{flag} cannot be reached: in {bits} bits and with --sites {','.join(wanted.sites)} "
            f"the least is {human(least, 'B')}; name more sites, or take fewer bits"
        )
    if found.bytes >= most:
        raise Usage(
            f"{flag} leaves nothing to compress: in {bits} bits the model takes about "
            f"{human(most, 'B')}, see tlm quantize"
        )
    keep = (kept + (found.bytes - least) / (most - least) * (dense - kept)) / dense
    return replace(found, least=kept / dense), keep


def settled(run: Run, keep: float | None) -> None:
    """Note the keep that a limit of bytes has become, in the recipe and in words."""
    if run.fits is not None and keep is not None:
        asked, run.recipe = run.fits.asked, _to_keep(run.recipe, keep)
        run.target = f"{asked}, which is --keep {keep:.4f} of the chosen layers"


def as_found(recipe: Recipe, target: str, report: Report) -> Recipe:
    """The recipe with the keep that a finished run has found for a target, if it had that one."""
    held, ending = report.part(Allocation), report.part(Ending)
    if held and ending and (held.target or "").startswith(f"{target}, "):
        keep = ending.recipe.get("compression", {}).get("keep")
        return _to_keep(recipe, keep if isinstance(keep, float) else 1.0)
    return recipe


def target_of(recipe: Recipe) -> str:
    """'--target-size 100MB', as it was asked for; empty where no target is."""
    wanted = recipe.compression
    given = {"size": wanted.target_size, "parameters": wanted.target_parameters}
    return next((f"--target-{key} {each}" for key, each in given.items() if each is not None), "")


def aimed(run: Run, recipe: Recipe, model: Any) -> Recipe:
    """The recipe with `--keep` in the place of a target; a run notes it, and what became of it."""
    target, run.fits = target_of(recipe), limit_of(recipe, model)
    run.recipe = translated(recipe, model)
    if target:
        which = "which is" if run.fits is None else "which is about"
        keep = run.recipe.compression.share
        run.target = f"{target}, {which} --keep {keep:.4f} of the chosen layers"
    return run.recipe


def least(recipe: Recipe, model: Any, sites: tuple[str, ...]) -> Least:
    """The least that these sites leave of a model on the meta device."""
    wanted = recipe.compression
    chosen = Candidates(model, select(model, sites, wanted.ignore), wanted.blocks)
    base = model.base_model
    item = max(first_of(base.get_submodule(site)).itemsize for site in chosen.roles)
    dense = sum(prod(chosen.shape(site)) for site in chosen.roles)
    other, few, fixed = count_parameters(model) - dense, dense, 0
    for name in methods(wanted.method, recipe.calibration.text != "none"):
        smallest, draft = copy.deepcopy(model), Draft()
        for site in chosen.roles:
            o, i = chosen.shape(site)
            smaller = o * i > o + i and chosen.takes(site, name)
            draft.take(chosen, site, chosen.make(site, name, 1) if smaller else None)
        factorize(smallest, draft.plan)
        held = count_parameters(smallest) - other
        size = file_bytes(smallest, bytes_of(recipe.output.max_shard_size))
        few, fixed = min(few, held), max(fixed, size - item * held)
    return Least(few, dense, other + few, fixed + item * few, item)


def _spare(recipe: Recipe, model: Any, found: Least) -> int:
    """The parameters that a target leaves above the least; negative where it is below that."""
    wanted = recipe.compression
    if wanted.target_size is not None:
        return (bytes_of(wanted.target_size) - found.bytes) // found.item
    return int((wanted.target_parameters or 1.0) * count_parameters(model)) - found.whole


def _shown(recipe: Recipe, model: Any, found: Least) -> str:
    """The least, in the unit of the target."""
    if recipe.compression.target_size is not None:
        return human(found.bytes, "B")
    return f"{found.whole / count_parameters(model):.3f} of the model"


def _helped(recipe: Recipe, model: Any) -> str:
    """Which sites would reach the target."""
    asked = recipe.compression.sites
    for sites in WIDER:
        wider = tuple(dict.fromkeys((*asked, *sites)))
        found = least(recipe, model, wider)
        if found.dense > least(recipe, model, asked).dense and _spare(recipe, model, found) >= 0:
            return f"; with --sites {','.join(sites)} it is {_shown(recipe, model, found)}"
    return ", and no other sites reach it"
