"""The study of the verb finetune (`--seeds`): Recipe -> Report, checked before anything goes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tlmtool.commands.paging import add_page, check_page
from tlmtool.commands.run import Run
from tlmtool.data.fingerprints import changed
from tlmtool.failure import Usage, check_alone
from tlmtool.files import kept
from tlmtool.files.claims import claim, sweep_within
from tlmtool.files.kept import has_keys
from tlmtool.files.places import check_place, path_of
from tlmtool.files.reading import sha256
from tlmtool.files.writing import whole_folder, write_whole
from tlmtool.models.finding import cached
from tlmtool.models.folder import Folder
from tlmtool.models.replacing import check_out, first_foreign
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.inputs import reads_of
from tlmtool.recipe.sources import current
from tlmtool.report.figures import human
from tlmtool.report.parts.ending import Predicted
from tlmtool.report.parts.model import Model
from tlmtool.report.report import Report
from tlmtool.training.study import Study

REPORT = "report.json"
NAME = "study.json"  # in the folder of a study: the settings that its results share
FILES = r"(study|report|rate-[\w.+-]+|[\w-]+-seed\d+)\.json"  # all that it writes
FILES = rf"{FILES}|page\.html"
FILES = re.compile(rf"{FILES}|\.({FILES})\.\d+\.unfinished")


def studied(
    recipe: Recipe,
    folder: Folder,
    tokenizer: Any,
    identity: dict[str, Any],
    loader: Callable[[Run], Callable],
    bar: Callable[[Run], Callable],
) -> Report:
    """Compare the arms. `--out` gets a file for each arm and seed; a dry run gives the cost.

    `identity`: the settings that a resumed study must share with its beginning."""
    _check(recipe)
    given = recipe.output.out or f"out/study-{folder.name}-{recipe.training.task}"
    out = path_of(given)
    if not recipe.output.dry_run:
        _check_folder(recipe, out, identity)
    name = recipe.model or f"a new {folder.name}"
    with Run(recipe) as run:
        study = Study(recipe, out, loader(run), tokenizer, folder, run.bars.line, bar(run))
        cost = study.cost()
        if recipe.output.dry_run:
            return run.report([Model(id=name), Predicted(predicted=True), cost])
        run.bars.line(
            f"predicted: {cost.runs} trainings of {cost.steps:,} steps, "
            f"{human(cost.flops, 'FLOPs')} (training steps alone; selections and evaluations "
            "not counted)"
        )
        if recipe.output.overwrite or not (out / NAME).exists():
            with whole_folder(out, lambda: _check_taken(recipe, out)) as new:
                (new / NAME).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        run.kept = lambda: f"{len([*out.glob('*-seed*.json')])} of {cost.runs} trainings are done"
        with run.stage("study"):
            found = study.compare(sha256(out / NAME)[:16])
    told = dict.fromkeys(f"{r.arm}: {each}" for r in found.results for each in r.warnings)
    report = run.report([Model(id=name, out=str(out)), found], told)
    write_whole(out / REPORT, report.to_json() + "\n")
    add_page({str(out): report}, out)
    return report


def _check(recipe: Recipe) -> None:
    """Raises Usage for settings that make sense for a single training only."""
    used = recipe.training
    if used.keep_best or used.patience:
        raise Usage(
            "a study compares arms at equal steps: --keep-best and --patience do not go with it"
        )
    if used.tracker:
        raise Usage("a study has many trainings, of which none is logged: leave out --tracker")
    if used.resume and recipe.output.overwrite:
        raise Usage("--resume keeps what is done, --overwrite replaces it: give one of the two")
    check_alone("a study")


def _check_folder(recipe: Recipe, out: Path, identity: dict[str, Any]) -> None:
    """Raises Usage for a folder that must not be written to, NotLoadable for a broken study."""
    check_place(out, reads_of(recipe, cached))
    claim(out)
    _check_taken(recipe, out)
    check_page(out)
    if recipe.output.overwrite or not out.is_dir() or not any(out.iterdir()):
        return None
    file = out / NAME
    if not recipe.training.resume:
        raise Usage(
            f"--out {out} is not empty: --resume goes on with the study in it, --overwrite "
            "replaces it"
        )
    told = ("cannot be read as that of a study", "--overwrite starts again")
    found = current(kept.read(file, dict[str, Any], *told))
    if {k: v for k, v in found.items() if k != "inputs"} != _plain(identity):
        raise Usage(
            f"{out} holds another study: resume with the same recipe, or give another --out"
        )
    if "inputs" not in found:
        raise Usage(f"{out} holds a study of another version of tlm: --overwrite starts again")
    if found["inputs"] != identity["inputs"]:
        raise Usage(
            f"{changed(found['inputs'], identity['inputs'])} is not the file that the study in "
            f"{out} began with: put that back, or give another --out"
        )
    return sweep_within(out)


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    """The recipe alone, as it is read back from JSON."""
    return json.loads(json.dumps({k: v for k, v in identity.items() if k != "inputs"}))


def _check_taken(recipe: Recipe, out: Path) -> None:
    """Raises Usage for a folder that holds no study. With `--overwrite` also for one that holds
    anything beside the study."""
    if out.is_dir() and any(out.iterdir()) and not (out / NAME).exists():
        raise Usage(f"--out {out} is not empty, and holds no study ({NAME})")
    check_out(out, True, foreign_to_study if recipe.output.overwrite else lambda _: None)


def foreign_to_study(out: Path) -> str | None:
    """A file of a folder that no study wrote, in words; None where there is none."""

    def ours(path: str) -> bool:
        return FILES.fullmatch(path) is not None and (
            path != REPORT or has_keys(out / path, "schema_version", "verb")
        )

    if not (found := first_foreign(out, ours)):
        check_page(out)
    return f"{found}, which no study wrote" if found else None
