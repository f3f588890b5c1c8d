"""Stages one after another, each a recipe of its own: `tlm run FILE`."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tlmtool.commands.compare import PAGE
from tlmtool.commands.launching import launched
from tlmtool.commands.notes import (
    LIST,
    REPORT,
    Notes,
    Place,
    compare,
    done,
    identity_of,
    keep_notes,
    kept_notes,
    mark_of,
)
from tlmtool.commands.paging import add_page, check_page
from tlmtool.commands.performing import check_inputs, perform
from tlmtool.commands.searching import SEARCHING
from tlmtool.commands.studying import foreign_to_study
from tlmtool.compression.journal import Journal
from tlmtool.data.fingerprints import Known, sums_of
from tlmtool.data.state import Store
from tlmtool.failure import Usage, check_alone, noting
from tlmtool.files.claims import claimed, settle
from tlmtool.files.kept import has_keys
from tlmtool.files.places import check_apart, check_makeable, path_of
from tlmtool.files.writing import whole_folder, write_whole
from tlmtool.models.finding import cached
from tlmtool.models.replacing import check_out, first_foreign, foreign_to_export
from tlmtool.recipe.inputs import reads_of
from tlmtool.recipe.schema import settings
from tlmtool.recipe.stages import Stage, stages_of
from tlmtool.recipe.verbs import CHECKPOINTS, WRITES
from tlmtool.report.kept import read_report
from tlmtool.report.parts.stages import Stage as Done
from tlmtool.report.parts.stages import Stages
from tlmtool.report.progress import log
from tlmtool.report.report import Report

__all__ = ["Stage", "run", "stages_of", "summary"]

RESUME = "training.resume"  # read by the verbs that keep what is done


def run(stages: Iterable[Stage], resume: bool, overwrite: bool) -> Iterator[tuple[Stage, Report]]:
    """Perform the stages, and give the report of each as it ends.

    With `resume`, stages that are done are kept, and a killed training or compression goes on.
    With `overwrite`, a stage replaces its earlier result when it ends, and nothing is lost before.
    Raises Usage for a folder that is taken, or that another recipe made.
    """
    stages = [*stages]
    out = stages[0].out.parent
    place = Place(out, frozenset(stage.name for stage in stages), out / LIST)
    check_alone("a pipeline")
    check_places(stages, place)
    with claimed(place.file):
        check_folder(out, LIST, "pipeline", resume, overwrite)
        prepared(place, stages, overwrite)  # a refusal changes nothing
        if overwrite:
            clear(out)
        count = 0
        with noting(lambda: f"{count} of {len(stages)} stages are done"):
            for each in run_at(place, stages, resume, overwrite):
                count += 1
                yield each


def run_at(
    place: Place, stages: list[Stage], resume: bool, overwrite: bool, known: Known | None = None
) -> Iterator[tuple[Stage, Report]]:
    """As `run`, at a place that is checked and claimed. `known`: checksums of files, as `sums_of`
    takes them.

    Before a stage runs, its recipe and the result that it replaces are noted. A whole result that
    is not the replaced one therefore belongs to the note, wherever the run was killed.
    """
    notes, known = prepared(place, stages, overwrite), {} if known is None else known
    for stage in stages:
        note, identity = notes.get(stage.name), identity_of(stage, place)
        identity["inputs"] = sums_of(stage.recipe, known)
        compare(stage, note, identity)
        there = mark_of(stage)
        if done(stage, note):
            report = _done(stage)
        else:
            notes[stage.name] = identity | {"replaces": there}
            keep_notes(place.file, notes)
            report = _performed(stage, resume, overwrite or there is not None)
        yield stage, report


def prepared(place: Place, stages: list[Stage], overwrite: bool) -> Notes:
    """The notes on earlier results, kept anew. With `overwrite`, they say that all of these are to
    be replaced. Raises Usage for a result that must not be."""
    notes = kept_notes(place.file, overwrite) or {}
    _settle(stages)
    check_replaced(stages, overwrite)
    if overwrite:
        notes |= {stage.name: {"replaces": mark_of(stage)} for stage in stages}
    for stage in stages:
        compare(stage, notes.get(stage.name), identity_of(stage, place))
    keep_notes(place.file, notes)
    return notes


def check_places(stages: Iterable[Stage], at: Place) -> None:
    """Raises Usage where a folder holds files that a stage reads, unless an earlier stage writes
    them, and where the folder of a stage cannot be made; NotLoadable as `check_inputs`."""
    stages, root = [*stages], Path(os.path.realpath(at.root))
    check_inputs(stages)

    def within(path: Path) -> bool:
        place = Path(os.path.realpath(path))
        return root in place.parents and place.relative_to(root).parts[0] in at.names

    found = [reads_of(stage.recipe, cached) for stage in stages]
    reads = {each: within(each[1]) for several in found for each in several}
    check_apart(at.root, [each for each, ours in reads.items() if not ours])
    check_makeable(stages[0].out if at.root.exists() else at.root)
    for stage, read in zip(stages, found, strict=True):
        check_apart(stage.out, [each for each in read if reads[each]])
        if (plot := stage.recipe.profiling.plot) and within(path_of(plot)):
            raise Usage(f"--plot {plot} lies in the folder of a stage: give another file")


def check_replaced(stages: list[Stage], overwrite: bool) -> None:
    """Raises Usage where a folder that is to be replaced holds what no such stage wrote."""
    for stage in stages:
        if stage.recipe.verb not in WRITES:
            check_out(stage.out, True, _foreign_to_report)
        elif overwrite:
            written = None if stage.recipe.verb in CHECKPOINTS else foreign_to_export
            study = stage.recipe.study.seeds
            check_out(stage.out, True, foreign_to_study if study else written)


def _foreign_to_report(folder: Path) -> str | None:
    found = first_foreign(folder, lambda path: path == REPORT and is_report(folder / path))
    return f"{found}, which is no report" if found else None


def is_report(file: Path) -> bool:
    """Whether a file is missing, or a report of any version of tlm, which may be replaced."""
    return not os.path.lexists(file) or has_keys(file, "schema_version", "verb")


def check_folder(out: Path, mark: str, kind: str, resume: bool, overwrite: bool) -> None:
    """Raises Usage for a folder that holds other things than earlier results, which the file `mark`
    tells, for results that are to be neither kept nor replaced, and for a report or a page that tlm
    did not write. `kind`: what the results are."""
    if resume and overwrite:
        raise Usage("--resume keeps what is done, --overwrite replaces it: give one of the two")
    if out.exists() and not out.is_dir():
        raise Usage(f"--out {out} is a file, not a folder")
    beside = f".{mark}."  # while it is claimed, or begun to be written
    if out.exists() and any(not each.name.startswith(beside) for each in out.iterdir()):
        if not os.path.lexists(out / mark):
            raise Usage(f"--out {out} is not empty, and holds no {kind} ({mark})")
        if not (resume or overwrite):
            raise Usage(
                f"--out {out} is not empty: --resume goes on with it, --overwrite replaces it"
            )
        check_report(out)
        check_page(out)


def clear(out: Path) -> None:
    """Remove the report and the page of an earlier run, which was found to be of tlm: a run that
    then fails would leave them as if they told of it."""
    for name in (REPORT, PAGE):
        settle(out / name)
        (out / name).unlink(missing_ok=True)


def check_report(folder: Path) -> None:
    """Raises Usage where the report of a folder, which would be replaced, is not of tlm."""
    if not is_report(folder / REPORT):
        what = f"{folder} holds {REPORT}, which tlm did not write"
        raise Usage(f"{what}: move it away, or give another --out")


def _settle(stages: list[Stage]) -> None:
    """Clear away what killed runs left of the stages, and put back what they moved."""
    left = [each for folder in {stage.out.parent for stage in stages} for each in folder.glob(".*")]
    for stage in stages:
        if any(each.name.startswith(f".{stage.out.name}.") for each in left):
            with claimed(stage.out):
                pass


def _performed(stage: Stage, resume: bool, overwrite: bool) -> Report:
    recipe = stage.recipe
    if overwrite:
        recipe = replace(recipe, output=replace(recipe.output, overwrite=True))
    if resume and RESUME in settings(recipe.verb) and not (overwrite and recipe.study.seeds):
        recipe = replace(recipe, training=replace(recipe.training, resume=True))
    launch = stage.launch
    report = launched(recipe, launch, stage.out) if launch else perform(recipe)
    if recipe.verb not in WRITES:
        with whole_folder(stage.out, lambda: check_replaced([stage], True)) as folder:
            (folder / REPORT).write_text(report.to_json() + "\n", encoding="utf-8")
    return report


def _done(stage: Stage) -> Report:
    """The report of a stage that an earlier run has finished."""
    report = read_report(stage.out / REPORT, stage.recipe.verb)
    Store(stage.out, {}).remove()
    Store(stage.out, {}, kind=SEARCHING).remove()
    Journal(stage.out, {}).remove()
    return report


def summary(done: list[tuple[Stage, Report]]) -> Report:
    """The report of a pipeline, made of those of its stages."""
    stages = tuple(Done(name=stage.name, report=report) for stage, report in done)
    return Report("run", [Stages(stages=stages)])


def finish(
    out: Path, report: Report, results: Mapping[str, Report], failed: Iterable[str] = ()
) -> None:
    """Write the report of a pipeline or of a sweep, and the page of its results, {folder: its
    report}, into its folder, which is claimed. `failed`: as in `add_page`."""
    for name in (REPORT, PAGE):  # a run that was killed may have begun it
        settle(out / name)
    write_whole(out / REPORT, report.to_json() + "\n")
    if add_page(results, out, failed):
        log.info("the results side by side: %s", out / PAGE)
