"""Several budgets of one model (`--keep 0.9,0.8`): one measuring, a checkpoint for each budget."""

import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from tlmtool.commands import compare
from tlmtool.commands.fronts import front_of
from tlmtool.commands.paging import add_page, check_page
from tlmtool.commands.resuming import ended_compression
from tlmtool.commands.run import Run, place_of
from tlmtool.compression.journal import KIND, Journal
from tlmtool.compression.sharing import Shared
from tlmtool.failure import CheckFailed, Usage, check_alone, first_line, noting
from tlmtool.files.claims import claim
from tlmtool.files.kept import has_keys
from tlmtool.files.places import check_place
from tlmtool.files.writing import write_whole
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.finding import cached
from tlmtool.models.replacing import check_out, foreign_to_checkpoint
from tlmtool.recipe import building as recipes
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.inputs import reads_of
from tlmtool.report import plots
from tlmtool.report.card import section
from tlmtool.report.checks import checked_figure
from tlmtool.report.layout import Part
from tlmtool.report.parts.ending import Ending, Predicted
from tlmtool.report.parts.front import Front
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quality import Quality
from tlmtool.report.parts.score import Score
from tlmtool.report.picture import together
from tlmtool.report.printable import printable
from tlmtool.report.progress import log
from tlmtool.report.report import Report
from tlmtool.report.views import alarms, facts, views, warnings

PICTURE = "front.png"
OURS = re.compile(  # what the folder of several budgets may hold
    r"(report\.json|README\.md|recipe\.yaml|front\.png|page\.html)"
    r"|keep-[\d.e-]+(\.compressing|\.finished\d*)?|\..+\.(lock|unfinished|replaced)"
)
One = Callable[[Recipe, Shared], Report]  # compresses to one budget


class Several(Report):
    """The report of several budgets; `reports` are their own, by budget."""

    def __init__(self, parts: Iterable[Part], reports: dict[str, Report], failed: Exception | None):
        super().__init__("compress", parts)
        self.reports, self.failed = reports, failed

    def check(self, expression: str) -> None:
        """As of any report, for each budget."""
        if checked_figure(expression).startswith("front."):
            super().check(expression)
            return
        for budget, report in self.reports.items():
            try:
                report.check(expression)
            except CheckFailed as error:
                raise CheckFailed(f"{budget}: {error}") from None


def several(recipe: Recipe, one: One) -> Report:
    """Compress to each budget in turn. `one` compresses to a single budget, as it does by itself.

    A budget that fails does not keep the others from being done. Raises Usage for an `--out` that
    is taken, for budgets that another recipe has made, and for what the smallest one rules out."""
    out, keeps = _folder(recipe), recipe.compression.keep
    assert isinstance(keeps, tuple)
    points = {f"keep {keep}": _single(recipe, keep, out) for keep in keeps}
    shared, reports, failed = Shared(), dict[str, Report](), dict[str, Exception]()
    kept = {
        budget: ended_compression(each, Path(str(each.output.out)))
        for budget, each in points.items()
    }
    if not recipe.output.dry_run:  # what the smallest budget rules out is told before any work
        one(_single(recipe, min(keeps), out, dry_run=True), shared)
    run = Run(recipe, shared)
    with noting(lambda: f"{len(reports)} of {len(points)} budgets are done" if reports else ""):
        for place, (budget, each) in enumerate(points.items(), 1):
            run.bars.line(f"budget {place} of {len(points)}: {budget}")
            try:
                reports[budget] = kept[budget] or one(each, shared)
                shared.measured = recipe.output.dry_run or "spectra" in shared.kept
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they hold the model
                failed[budget] = error
            release_memory()
    if not reports:
        raise next(iter(failed.values()))
    told = {
        budget: first_line(error) + _earlier(points[budget]) for budget, error in failed.items()
    }
    report = _reported(run, out, reports, points, told)
    found = Several(report.parts, reports, next(iter(failed.values()), None))
    if not recipe.output.dry_run:
        _write(found, recipe, out)
        if recipe.output.overwrite:
            _sweep(out, {f"keep-{keep}" for keep in keeps})
    return found


def _sweep(out: Path, current: set[str]) -> None:
    """Remove the checkpoints of budgets of an earlier run, which this one replaces. A folder with
    other files stays."""
    for folder in sorted(out.glob("keep-*")):
        place = out / folder.name.removesuffix(f".{KIND}")
        if place.name in current or folder.is_symlink() or not folder.is_dir():
            continue
        if folder != place:
            Journal(place, {}).remove()
        elif (foreign := foreign_to_checkpoint(folder)) is None:
            shutil.rmtree(folder)
            log.info("%s is removed: it is of the run that this one replaces", folder)
        else:
            log.warning("%s stays, because it holds %s", folder, foreign)


def _earlier(recipe: Recipe) -> str:
    """What is told of a budget that failed where another run has made it before."""
    there = os.path.lexists(str(recipe.output.out)) and not recipe.output.dry_run
    return "; its folder holds the result of an earlier run" if there else ""


def _single(recipe: Recipe, keep: float, out: Path, dry_run: bool | None = None) -> Recipe:
    """The recipe of one budget."""
    dry = recipe.output.dry_run if dry_run is None else dry_run
    output = replace(recipe.output, out=str(out / f"keep-{keep}"), dry_run=dry)
    return replace(recipe, compression=replace(recipe.compression, keep=keep), output=output)


def _folder(recipe: Recipe) -> Path:
    """The folder of all budgets, which is claimed. Raises Usage where it is taken."""
    check_alone("a compression to several budgets")
    keeps = recipe.compression.keep
    assert isinstance(keeps, tuple)
    out = place_of(recipe, f"keep{'-'.join(map(str, keeps))}")
    if recipe.output.dry_run:
        return out
    resume, overwrite = recipe.training.resume, recipe.output.overwrite
    if resume and overwrite:
        raise Usage("--resume keeps what is done, --overwrite replaces it: give one of the two")
    check_place(out, reads_of(recipe, cached))
    claim(out)
    check_out(out, True, lambda _: None)  # a file is refused
    names = [each.name for each in out.iterdir()] if out.is_dir() else []
    if foreign := next((name for name in names if not OURS.fullmatch(name)), None):
        raise Usage(f"--out {out} holds {foreign}, which is of no such budgets: give another --out")
    files = [name for name in names if not name.startswith(("keep-", "."))]
    if files and not has_keys(out / "report.json", "schema_version", "front"):
        raise Usage(f"--out {out} holds {files[0]} and no report of budgets: give another --out")
    if names and not (resume or overwrite):
        raise Usage(
            f"--out {out} is not empty: --resume keeps the budgets that are done, --overwrite "
            "replaces them"
        )
    check_page(out)
    return out


def _reported(
    run: Run,
    out: Path,
    reports: dict[str, Report],
    budgets: Iterable[str],
    failed: dict[str, str],
) -> Report:
    """The report of all budgets."""
    first = next(iter(reports.values()))
    model, predicted, picture = first.part(Model) or Model(), first.part(Predicted), None
    for report in reports.values():
        ending = report.part(Ending)
        for stage, seconds in (ending.seconds if ending else {}).items():
            run.seconds[stage] = run.seconds.get(stage, 0.0) + seconds
    told = [f"{budget} failed: {why}" for budget, why in failed.items()] + _warnings(reports)
    if not predicted:
        if not any(each.part(Quality) or each.part(Score) for each in reports.values()):
            told.append(f"{PICTURE} is not drawn: no quality is measured")
        elif plots.drawable():
            picture = str(out / PICTURE)
        else:
            told.append(f"{PICTURE} is not drawn: it needs pip install 'tlmtool[plots]'")
    once = None if predicted else sum(run.shared.seconds.values())
    found = front_of(budgets, reports, failed, shared_seconds=once or None, picture=picture)
    marks = [predicted] if predicted else []
    return run.report([replace(model, out=None if predicted else str(out)), *marks, found], told)


def _warnings(reports: dict[str, Report]) -> list[str]:
    """The warnings that all budgets have, the alarms of each, and how many more it has."""
    each = {budget: warnings(report) for budget, report in reports.items()}
    every = [
        text for text in next(iter(each.values())) if all(text in own for own in each.values())
    ]
    told = list(every)
    for budget, report in reports.items():
        loud = [text for text in alarms(report) if text not in every]
        told += [f"{budget}: {text}" for text in loud]
        if more := len(set(each[budget]) - {*every, *loud}):
            told.append(f"{budget}: {more} more warning{'s' if more > 1 else ''} in its report")
    return told


def _write(found: Several, recipe: Recipe, out: Path) -> None:
    """The report, its tables, its picture and its page beside the folders of the budgets."""
    front = found.part(Front)
    assert front is not None
    made = {str(out / f"keep-{keep.split()[1]}"): each for keep, each in found.reports.items()}
    beside = compare.beside(made)
    write_whole(out / "report.json", found.to_json() + "\n")  # first: it tells whose the others are
    if front.picture:
        write_whole(Path(front.picture), together([*beside.sizes()]))
    shown = [f"# {out.name}\n", f"{found.title()}\n"]
    shown += [f"![size against quality]({PICTURE})\n"] if front.picture else []
    shown += [section(view) for view in views(found)]
    shown += [f"* {label}: {text}" for label, text in facts(found)]
    shown += [f"* warning: {text}" for text in warnings(found)]
    write_whole(out / "README.md", printable("\n".join(shown) + "\n"))
    write_whole(out / "recipe.yaml", recipes.dump(recipe))
    failed = [f"{p.budget} failed: {p.failed}" for p in front.points if p.failed]
    add_page(made, out, failed)
