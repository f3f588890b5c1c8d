"""`evaluate --out`: the figures of an evaluation are added to a checkpoint's report and card.

Only `report.json` and `README.md` are written, each whole: the report first, since the card is made
from it. Nothing else in them is lost. A card that someone has edited keeps every word but those of
its section "Evaluations" and of the scores that tlm wrote to `model-index`.
"""

import os
import re
from pathlib import Path
from typing import Any

from tlmtool.failure import NotLoadable, Usage
from tlmtool.files import notation
from tlmtool.files.claims import claim, sweep_within
from tlmtool.files.kept import Kept, read
from tlmtool.files.places import path_of
from tlmtool.files.reading import read_text
from tlmtool.files.writing import write_whole
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.inputs import reads_of
from tlmtool.report.card import section
from tlmtool.report.index import renewed
from tlmtool.report.layout import SCHEMA_VERSION, plain
from tlmtool.report.parts.ending import Ending, Source
from tlmtool.report.parts.evaluation import Evaluation
from tlmtool.report.parts.evaluations import Added, Evaluations
from tlmtool.report.parts.model import Model
from tlmtool.report.report import Report

REPORT, CARD = "report.json", "README.md"
KEY = "evaluations"
FRONT = re.compile(r"\A---\n(.*?^)---$", re.MULTILINE | re.DOTALL)
INDEX = re.compile(r"^model-index:.*?(?=^[^\s-]|\Z)", re.MULTILINE | re.DOTALL)  # of its front
SECTION = re.compile(r"^## Evaluations\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
AFTER = re.compile(r"^## (How it was made|References|Recipe)$", re.MULTILINE)  # where it is put
MOST = 2**24  # bytes of a card; a larger one is refused


def target_of(recipe: Recipe, folder: Folder) -> Path | None:
    """The folder of `--out`, which is claimed; None without it.

    Raises Usage or NotLoadable, before any work, where it holds no checkpoint that tlm wrote with
    the weights of `folder`, or where its report and card cannot be replaced.
    """
    if recipe.evaluation.out is None:
        return None
    out = path_of(recipe.evaluation.out)
    if not out.is_dir():
        raise NotLoadable(f"--out {out} does not exist: name a checkpoint that tlm wrote")
    if not (out / REPORT).is_file():
        raise Usage(
            f"--out {out} has no {REPORT} of tlm, to which figures could be added: leave --out "
            "away, and --json prints them"
        )
    claim(out)
    sweep_within(out)
    _report_in(out)
    _check_files(out, recipe)
    if not out.samefile(folder.path) and Folder.of(out).sums != folder.sums:
        raise Usage(
            f"--out {out} has other weights than {recipe.model}: its report takes the figures of "
            f"its own model alone, so evaluate {out}"
        )
    return out


def add(out: Path, report: Report) -> None:
    """Add the report of an evaluation to the report and the card of a checkpoint.

    An earlier one of the same task and data is replaced, others stay."""
    data, before = _report_in(out)
    made = plain(_added(report))
    kept = data.pop(KEY, [])
    places = [i for i, each in enumerate(kept) if _same(each, made)]
    for place in places[:1]:
        kept[place] = made
    kept = [each for i, each in enumerate(kept) if i not in places[1:]]
    kept += [] if places else [made]
    after = Report.read(_with(data, kept))
    card = _card(out, before, after)  # may raise, and then nothing has been written
    write_whole(out / REPORT, after.to_json() + "\n")
    write_whole(out / CARD, card)


class _Report(Kept):
    schema_version: int
    verb: str


def _report_in(out: Path) -> tuple[dict[str, Any], Report]:
    """The report of a checkpoint, plain and as its parts. Raises NotLoadable where it is none that
    this version of tlm writes."""
    file, advice = out / REPORT, "leave --out away, and --json prints the figures"
    data = read(file, _Report, "is no report of tlm", advice)
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"it is of version {data['schema_version']}")
        return data, Report.read(data)
    except ValueError as error:
        raise NotLoadable(f"{file} is no report of this tlm ({error}): {advice}") from error


def _check_files(out: Path, recipe: Recipe) -> None:
    """Raises Usage where the two files may not or cannot be replaced."""
    for name in (REPORT, CARD):
        file = out / name
        if file.is_symlink():
            raise Usage(f"{file} is a link, which is not written through: copy the file there")
        for what, path in reads_of(recipe):
            if file.exists() and path.is_file() and file.samefile(path):
                raise Usage(f"{file} is {what}, which is read: give another --out")
    if not os.access(out, os.W_OK):
        raise Usage(f"--out {out} cannot be written to")


def _added(report: Report) -> Added:
    """An evaluation as it is kept in the report of its checkpoint."""
    found, ending = report.part(Evaluation), report.part(Ending)
    source = report.part(Source)
    if found is None or ending is None or source is None:
        raise ValueError("this is no report of an evaluation")
    told = found.facts(report, False)
    return Added(
        task=found.task,
        data=source.data,
        metric=found.metric,
        better=found.better,
        what=found.what,
        model=found.models[0],
        baseline=found.baseline,
        facts=dict(told),
        warnings=ending.warnings,
        seed=ending.seed,
        versions=ending.versions,
        recipe=ending.recipe,
    )


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two evaluations are of the same task on the same data."""
    places = (os.path.realpath(os.path.expanduser(each["data"])) for each in (first, second))
    return first["task"] == second["task"] and len({*places}) == 1


def _with(data: dict[str, Any], evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """The report with its evaluations, right before what ends it."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("files", "warnings") and KEY not in found:
            found[KEY] = evaluations
        found[key] = value
    return found | {KEY: evaluations}


def _card(out: Path, before: Report, after: Report) -> str:
    """The new card. One that tlm wrote is made anew, an edited one keeps what is not ours."""
    file, model = out / CARD, before.part(Model)
    names = [out.name, Path((model and model.out) or out).name]
    if not file.exists():
        return after.card(names[0])
    try:
        text = read_text(file, MOST)
    except (OSError, UnicodeDecodeError) as error:
        raise NotLoadable(f"{file} cannot be read as UTF-8 text: {error}") from error
    for name in names:
        if text == before.card(name):
            return after.card(name)
    lines = "\r\n" if "\r\n" in text else "\n"
    text = _with_index(text.replace("\r\n", "\n"), before, after, names[0])
    part = after.part(Evaluations)
    ours = "".join(section(view) for view in (part.views(after, False) if part else [])) + "\n"
    if SECTION.search(text):
        text = SECTION.sub(lambda _: ours, text, count=1)
    elif place := AFTER.search(text):
        text = text[: place.start()] + ours + text[place.start() :]
    else:
        text = f"{text.rstrip()}\n\n{ours}"
    return text.replace("\n", lines)


def _with_index(text: str, before: Report, after: Report, name: str) -> str:
    """A card whose front matter lists the scores of the new report; all else of it stays. A card
    without front matter, or with one that cannot be read, stays as it is."""
    if not (found := FRONT.match(text)):
        return text
    try:
        kept = notation.parse(found[1], "the front matter")
    except Usage:
        return text
    index = renewed(kept.get("model-index"), before, after, name) if isinstance(kept, dict) else []
    ours = notation.written({"model-index": index}) if index else ""
    there = INDEX.search(found[1])
    front = INDEX.sub(lambda _: ours, found[1], count=1) if there else found[1] + ours
    return text.replace(found[1], front, 1)
