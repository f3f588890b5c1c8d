"""`--max-loss-increase` without `--attention`: the smallest `--keep` within a rise of the loss."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tlmtool.commands.calibrating import resolved
from tlmtool.commands.fronts import front_of
from tlmtool.commands.resuming import (
    check_free,
    done_already,
    ended_compression,
    identity_of,
    inputs_of,
)
from tlmtool.commands.run import out_folder, place_of
from tlmtool.commands.targets import least
from tlmtool.compression.sharing import Shared
from tlmtool.data.state import AGAIN, Store
from tlmtool.failure import NotLoadable, Usage, noting
from tlmtool.measuring.profiling import release_memory
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.report.kept import read_report
from tlmtool.report.layout import Part
from tlmtool.report.parts.front import Front, Point
from tlmtool.report.parts.quality import Quality
from tlmtool.report.progress import log
from tlmtool.report.report import Report

SEARCHING = "searching"  # ends the name of the folder of its tries
TRIES = 6  # each halves the budgets that are left: one more takes as long as the others


class One(Protocol):
    """Compresses to one budget. A `trial` is measured and not written; `parts` are added to the
    report."""

    def __call__(
        self, recipe: Recipe, shared: Shared, trial: bool = False, parts: tuple[Part, ...] = ()
    ) -> Report: ...


def searched(recipe: Recipe, one: One) -> Report:
    """The compression to the smallest budget that stays within the bound, by bisection.

    Each try compresses the dense model and measures it; only what does not depend on the budget is
    kept from one to the next. The reports of finished tries are kept on disk beside `--out` until
    the search has ended, so that `--resume` does not repeat them. The budget that was taken is then
    compressed to as by itself. Raises Usage where no try stays within the bound."""
    bound = recipe.compression.max_loss_increase
    assert bound is not None
    suffix = f"loss{bound}"
    out = place_of(recipe, suffix)
    recipe = replace(recipe, output=replace(recipe.output, out=str(out)))
    if found := _ended(recipe, out, bound):
        return found
    out_folder(recipe, suffix)
    kept = _store(recipe, out)
    shared, tries, taken = Shared(), _kept_of(kept, recipe), 0.0
    low, high = _least(recipe), 1.0
    with noting(lambda: f"{len(tries)} of {TRIES} tries are done" if tries else ""):
        for at in range(1, TRIES + 1):
            keep = round((low + high) / 2, 4)
            if keep not in tries:
                tries[keep] = one(_at(recipe, keep), shared, trial=True)
                shared.measured = True
                kept.save({"tries": [[k, each.to_json()] for k, each in tries.items()]})
                kept.keep()
                release_memory()
            rise = _rise(recipe, tries[keep])
            told = f"try {at} of {TRIES}: --keep {keep} raises the loss by {rise:.4f}"
            if rise <= bound:
                high = taken = keep
                log.info("%s, within %g", told, bound)
            else:  # also if it is NaN
                low = keep
                log.info("%s, above %g", told, bound)
    if not taken:
        kept.remove()
        raise Usage(
            f"no budget stays within --max-loss-increase {bound:g}: --keep {max(tries)}, the "
            f"largest that was tried, raises the loss by {_rise(recipe, tries[max(tries)]):.4f}"
        )
    found = one(_at(recipe, taken), shared, parts=(_front(tries, taken, bound, shared),))
    kept.remove()
    return found


def _store(recipe: Recipe, out: Path) -> Store:
    """Where the tries of a search are kept. Raises Usage for an interrupted search that should
    neither be resumed nor replaced."""
    folder = Folder.of(recipe.model, recipe.revision)
    empty = checkpoint.empty(folder, recipe.dtype, lambda _: None)
    inputs = inputs_of(recipe, folder)
    identity = identity_of(resolved(recipe, empty), folder, inputs)
    found = Store(out, identity, inputs, SEARCHING)
    check_free(recipe, found)
    return found


def _kept_of(store: Store, recipe: Recipe) -> dict[float, Report]:
    """{keep: the report of its try} of the search that is gone on with; empty for a new one.

    Raises Usage for the state of another search, and NotLoadable where it cannot be read."""
    if not (recipe.training.resume and store.there):
        return {}
    state = store.load()
    try:
        found = {float(keep): Report.read(json.loads(held)) for keep, held in state["tries"]}
        [_rise(recipe, each) for each in found.values()]
    except Exception as error:
        raise NotLoadable(f"the state in {store.folder} does not fit this run: {AGAIN}") from error
    log.info("going on with the search in %s: %d tries are done", store.folder, len(found))
    return found


def _at(recipe: Recipe, keep: float) -> Recipe:
    """The recipe of one try."""
    return replace(
        recipe, compression=replace(recipe.compression, keep=keep, max_loss_increase=None)
    )


def _rise(recipe: Recipe, report: Report) -> float:
    """How far the loss rose. Raises Usage where none was measured."""
    quality = report.part(Quality)
    if quality is None:
        raise Usage(f"{recipe.model} has no tokenizer, so that no loss bounds the budget")
    return quality.after - (quality.before or 0.0)


def _least(recipe: Recipe) -> float:
    """The least share of the sites that any budget keeps."""
    folder = Folder.of(recipe.model, recipe.revision)
    empty = checkpoint.empty(folder, recipe.dtype, lambda _: None)
    found = least(recipe, empty, recipe.compression.sites)
    return found.sites / found.dense


def _front(tries: dict[float, Report], taken: float, bound: float, shared: Shared) -> Front:
    """The tries as points of a front, the largest first."""
    reports = {f"keep {keep}": tries[keep] for keep in sorted(tries, reverse=True)}
    once = sum(shared.seconds.values())
    found = front_of(reports, reports, {}, bound=bound, shared_seconds=once)
    points = (_marked(each, f"keep {taken}") for each in found.points)
    return replace(found, points=tuple(points))


def _marked(point: Point, taken: str) -> Point:
    """A try; it has no folder."""
    return replace(point, out=None, taken=True if point.budget == taken else None)


def _ended(recipe: Recipe, out: Path, bound: float) -> Report | None:
    """With `--resume`, the report of a search that has ended; None for others. Raises Usage where
    something else was made there."""
    if not done_already(recipe, out):
        return None
    Store(out, {}, kind=SEARCHING).remove()
    found = read_report(out / "report.json", "compress")
    front = found.part(Front)
    taken = next((each for each in front.points if each.taken), None) if front else None
    if front is None or taken is None or front.bound != bound:
        raise Usage(
            f"{out} holds a finished run that was no search within {bound:g}: give another --out, "
            "or --overwrite"
        )
    return ended_compression(_at(recipe, float(taken.budget.removeprefix("keep "))), out)
