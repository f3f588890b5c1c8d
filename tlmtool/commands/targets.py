"""Budgets of the whole model (`--target-size`, `--target-parameters`), as `--keep` of the sites."""

import copy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tlmtool.compression.candidates import Candidates, select
from tlmtool.compression.drafting import Draft
from tlmtool.compression.planning import methods
from tlmtool.failure import Usage
from tlmtool.files.numbers import size as bytes_of
from tlmtool.measuring.counting import count_parameters
from tlmtool.models.factorized import first_of
from tlmtool.models.footprint import file_bytes
from tlmtool.models.surgery import factorize
from tlmtool.recipe.building import Recipe
from tlmtool.report.figures import human

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
    kept = replace(wanted, keep=keep, target_size=None, target_parameters=None)
    return replace(recipe, compression=kept)


def target_of(recipe: Recipe) -> str:
    """'--target-size 100MB', as it was asked for; empty where no target is."""
    wanted = recipe.compression
    given = {"size": wanted.target_size, "parameters": wanted.target_parameters}
    return next((f"--target-{key} {each}" for key, each in given.items() if each is not None), "")


def told_of(asked: Recipe, found: Recipe) -> str | None:
    """What a target became, in words; None where none was asked for."""
    target, keep = target_of(asked), found.compression.share
    return f"{target}, which is --keep {keep:.4f} of the chosen layers" if target else None


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
