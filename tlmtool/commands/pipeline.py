"""Stages one after another, each a recipe of its own: `tlm run FILE`."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tlmtool.commands.performing import perform
from tlmtool.commands.searching import SEARCHING
from tlmtool.commands.studying import foreign_to_study
from tlmtool.compression.journal import Journal
from tlmtool.data.fingerprints import changed, sums_of
from tlmtool.data.state import Store
from tlmtool.failure import NotLoadable, Usage, check_alone, noting
from tlmtool.files import kept
from tlmtool.files.claims import claimed
from tlmtool.files.kept import Kept
from tlmtool.files.places import check_apart, check_makeable, path_of
from tlmtool.files.reading import sha256
from tlmtool.files.writing import whole_folder, write_whole
from tlmtool.models.finding import cached
from tlmtool.models.replacing import check_out, first_foreign, foreign_to_export
from tlmtool.recipe.building import to_dict
from tlmtool.recipe.folders import check_filled
from tlmtool.recipe.inputs import reads_of
from tlmtool.recipe.schema import settings
from tlmtool.recipe.stages import Stage, stages_of
from tlmtool.recipe.verbs import CHECKPOINTS, WRITES
from tlmtool.report.kept import read_report
from tlmtool.report.parts.stages import Stage as Done
from tlmtool.report.parts.stages import Stages
from tlmtool.report.report import Report

__all__ = ["Stage", "run", "stages_of", "summary"]

REPORT = "report.json"  # in the folder of a stage that is done
RESUME = "training.resume"  # read by the verbs that keep what is done
LIST = "stages.json"  # in the folder of a pipeline: the recipe and the inputs of each result
FORMAT = 2  # version of that file; with another number, older folders can only be replaced


def run(stages: list[Stage], resume: bool, overwrite: bool) -> Iterator[tuple[Stage, Report]]:
    """Perform the stages, and give the report of each as it ends.

    With `resume`, stages that are done are kept, and a killed training or compression goes on.
    With `overwrite`, a stage replaces its earlier result when it ends, and nothing is lost before.
    Raises Usage for a folder that is taken, or that another recipe made.

    Before a stage runs, its recipe and the result that it replaces are noted. A whole result that
    is not the replaced one therefore belongs to the note, wherever the run was killed.
    """
    out = stages[0].out.parent
    check_alone("a pipeline")
    for stage in stages:
        check_filled(stage.recipe)
    _check_places(stages, out)
    with claimed(out / LIST):
        yield from _run(stages, out, resume, overwrite)


def _run(
    stages: list[Stage], out: Path, resume: bool, overwrite: bool
) -> Iterator[tuple[Stage, Report]]:
    notes, known = _kept(out, overwrite), {}
    _check(out, notes is not None, resume, overwrite)
    _settle(stages, out)
    _check_replaced(stages, overwrite)
    notes = notes or {}
    if overwrite:
        notes |= {stage.name: {"replaces": _mark(stage)} for stage in stages}
    for stage in stages:
        _compare(stage, notes.get(stage.name), _identity(stage))
    _keep(out, notes)
    for done, stage in enumerate(stages):
        note, identity = notes.get(stage.name), _identity(stage)
        identity["inputs"] = sums_of(stage.recipe, known)
        _compare(stage, note, identity)
        there = _mark(stage)
        if there and note and note.get("replaces") != there:
            report = _done(stage)
        else:
            notes[stage.name] = identity | {"replaces": there}
            _keep(out, notes)
            with noting(lambda done=done: f"{done} of {len(stages)} stages are done"):
                report = _performed(stage, resume, overwrite or there is not None)
        yield stage, report


def _check_places(stages: list[Stage], out: Path) -> None:
    """Raises Usage where a folder holds files that a stage reads, unless an earlier stage writes
    them, and where the folder of a stage cannot be made."""
    root, names = Path(os.path.realpath(out)), {stage.name for stage in stages}

    def within(path: Path) -> bool:
        place = Path(os.path.realpath(path))
        return root in place.parents and place.relative_to(root).parts[0] in names

    found = {stage.name: reads_of(stage.recipe, cached) for stage in stages}
    reads = {each: within(each[1]) for several in found.values() for each in several}
    check_apart(out, [each for each, ours in reads.items() if not ours])
    check_makeable(stages[0].out if out.exists() else out)
    for stage in stages:
        check_apart(stage.out, [each for each in found[stage.name] if reads[each]])
        if (plot := stage.recipe.profiling.plot) and within(path_of(plot)):
            raise Usage(f"--plot {plot} lies in the folder of a stage: give another file")


def _check_replaced(stages: list[Stage], overwrite: bool) -> None:
    """Raises Usage where a folder that is to be replaced holds what no such stage wrote."""
    for stage in stages:
        if stage.recipe.verb not in WRITES:
            check_out(stage.out, True, _foreign_to_report)
        elif overwrite:
            written = None if stage.recipe.verb in CHECKPOINTS else foreign_to_export
            study = stage.recipe.study.seeds
            check_out(stage.out, True, foreign_to_study if study else written)


def _foreign_to_report(folder: Path) -> str | None:
    found = first_foreign(folder, lambda path: path == REPORT)
    return f"{found}, which is no report" if found else None


def _check(out: Path, ours: bool, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise Usage("--resume keeps what is done, --overwrite replaces it: give one of the two")
    if out.exists() and not out.is_dir():
        raise Usage(f"--out {out} is a file, not a folder")
    beside = f".{LIST}."  # while it is claimed, or begun to be written
    if out.exists() and any(not each.name.startswith(beside) for each in out.iterdir()):
        if not ours:
            raise Usage(f"--out {out} is not empty, and holds no pipeline ({LIST})")
        if not (resume or overwrite):
            raise Usage(
                f"--out {out} is not empty: --resume goes on with it, --overwrite replaces it"
            )


def _identity(stage: Stage) -> dict[str, Any]:
    """The settings that an earlier result must share with this stage. Where it lies and how it is
    checked are not among them."""
    tree = {key: value for key, value in to_dict(stage.recipe).items() if key != "output"}
    plain = json.dumps(tree).replace(json.dumps(f"{stage.out.parent}/")[:-1], '"@')
    return {"recipe": json.loads(plain)}


def _mark(stage: Stage) -> str | None:
    """The checksum of a stage's report, which marks its result; None without one."""
    file = stage.out / REPORT
    return sha256(file) if file.is_file() else None


def _compare(stage: Stage, note: dict[str, Any] | None, identity: dict[str, Any]) -> None:
    """Raises Usage for a result that this stage did not make and that it must not replace."""
    there, whole = _mark(stage), not stage.recipe.study.seeds  # a study grows in its place
    if there is None and whole and stage.out.is_dir() and any(stage.out.iterdir()):
        raise Usage(f"{stage.out} is not empty, and holds no result of a stage: move it away")
    if there is None or (note and note.get("replaces") == there):
        return
    if note is None or note.get("recipe") != identity["recipe"]:
        raise Usage(f"{stage.out} was made by another recipe: --overwrite replaces it")
    if "inputs" in identity and note.get("inputs") != identity["inputs"]:
        which = changed(note.get("inputs"), identity["inputs"])
        raise Usage(
            f"{stage.out} was made before {which} was changed: put that back, or --overwrite "
            "replaces what was made"
        )


class _Note(Kept):
    """The note on a stage before it runs: its recipe, the files that it reads, and the mark of the
    earlier result that it replaces."""

    recipe: dict[str, Any] | None = None
    inputs: dict[str, dict[str, str]] | None = None
    replaces: str | None = None


class _List(Kept):
    format: int = 1  # files of the first version do not say it
    stages: dict[str, _Note] = Field(default_factory=dict)


def _kept(out: Path, overwrite: bool) -> dict[str, Any] | None:
    """{stage: its note} of the pipeline in this folder; None where there is none.

    Raises NotLoadable for a file that is no list of stages, Usage for one of another version."""
    file = out / LIST
    if not os.path.lexists(file):
        return None
    told = ("is no list of a pipeline's stages", "give another --out")
    found = kept.read(file, _List, *told)
    if "format" not in found and not all(
        isinstance(x, dict) and "verb" in x for x in found.values()
    ):
        raise NotLoadable(f"{file} {': '.join(told)}")
    if found.get("format") != FORMAT and not overwrite:
        raise Usage(f"{out} holds a pipeline of another version of tlm: --overwrite replaces it")
    return found.get("stages", {})


def _settle(stages: list[Stage], out: Path) -> None:
    """Clear away what killed runs left of the stages, and put back what they moved."""
    left = {each.name[1:].partition(".")[0] for each in out.glob(".*")}
    for name in left & {stage.name for stage in stages}:
        with claimed(out / name):
            pass


def _keep(out: Path, notes: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "stages": notes}, indent=1)
    write_whole(out / LIST, text + "\n")


def _performed(stage: Stage, resume: bool, overwrite: bool) -> Report:
    recipe = stage.recipe
    if overwrite:
        recipe = replace(recipe, output=replace(recipe.output, overwrite=True))
    if resume and RESUME in settings(recipe.verb) and not (overwrite and recipe.study.seeds):
        recipe = replace(recipe, training=replace(recipe.training, resume=True))
    report = perform(recipe)
    if recipe.verb not in WRITES:
        with whole_folder(stage.out, lambda: _check_replaced([stage], True)) as folder:
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
