"""`tlm compare`: the reports of earlier runs side by side, as tables, pictures and a page."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tlmtool.commands.tabling import Table
from tlmtool.failure import NotLoadable, Usage
from tlmtool.files.kept import Kept, read
from tlmtool.files.notation import written
from tlmtool.files.places import path_of
from tlmtool.files.writing import write_whole
from tlmtool.report import plots
from tlmtool.report.card import section
from tlmtool.report.figures import View
from tlmtool.report.latex import latex
from tlmtool.report.layout import SCHEMA_VERSION
from tlmtool.report.page import MARK, Detail, page
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.front import Front
from tlmtool.report.picture import MARKS, Picture, png, svg
from tlmtool.report.pictures import pictures_of
from tlmtool.report.printable import printable
from tlmtool.report.report import Report
from tlmtool.report.rows import Row, each_report, gathered, named_alone, references, rows_of
from tlmtool.report.spots import sizes
from tlmtool.report.views import warnings

FORMATS = ("table", "csv", "json", "latex", "markdown")
REPORT, PAGE = "report.json", "page.html"
WANTS = f"give folders in which a run of tlm has left its {REPORT}"
NO_PLOTS = "without pictures: they need pip install 'tlmtool[plots]'"
LARGEST = 2**16  # bytes of a page in which the mark of tlm is looked for


class _Report(Kept):
    schema_version: int
    verb: str


@dataclass(frozen=True)
class Compared:
    """Results side by side: the table, and what readers must know of it."""

    table: Table
    notes: list[str]
    taken: list[Row] = field(default_factory=list)  # measurements that stand in rows of others

    @property
    def views(self) -> list[View]:
        return self.table.views()

    def pictures(self) -> list[Picture]:
        """All pictures; none without matplotlib."""
        return pictures_of(self.table.rows, self.table.known) if plots.drawable() else []

    def sizes(self) -> list[Picture]:
        """The pictures of quality against size."""
        return [*sizes(self.table.rows, self.table.known)]

    def page(self, title: str) -> str:
        """The HTML page."""
        rows = self.table.rows
        about = f"Differences and ratios are to {self.table.baseline.name}."
        notes = [*self.notes, *([] if plots.drawable() else [NO_PLOTS])]
        every = each_report([*rows, *self.taken])
        details = [Detail(row.name.partition(": ")[0], _detail(row)) for row in every]
        title = f"{title}: {len(rows)} results side by side"
        return page(title, about, self.views, self.pictures(), notes, details)

    def text(self, kind: str) -> str:
        """The table as CSV, JSON, Markdown or LaTeX."""
        if kind in ("csv", "json"):
            records = self.table.records()
            if kind == "json":
                return json.dumps({"results": records, "notes": self.notes}, indent=2)
            stream = io.StringIO()
            writer = csv.DictWriter(stream, [*records[0]], lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
            return stream.getvalue().rstrip("\n")
        if kind == "latex":
            return "\n\n".join(latex(view) for view in self.views)
        notes = "".join(f"* {each}\n" for each in self.notes)
        return "\n".join([*map(section, self.views), notes]).rstrip("\n")


def compare(
    folders: Iterable[str | Path],
    *,
    baseline: str | Path | None = None,
    where: Iterable[str] = (),
    sort: str | None = None,
) -> Compared:
    """The results in these folders and files, side by side.

    `baseline`: the folder, or the name of a row, that all are compared with; by default the first.
    Raises NotLoadable for what holds no result, Usage for a figure that no result has."""
    found = dict[str, Report]()
    for folder in folders:
        found |= reports_in(path_of(folder))
    if baseline is not None and path_of(baseline).exists():
        theirs = reports_in(path_of(baseline))
        given = [place for place, each in theirs.items() if rows_of(place, each)] or [*theirs]
        found, baseline = theirs | found, given[0]  # the report of a sweep has no row of its own
    return beside(found, baseline, where, sort)


def beside(
    reports: Mapping[str, Report],
    baseline: str | Path | None = None,
    where: Iterable[str] = (),
    sort: str | None = None,
) -> Compared:
    """The same of {path: report}."""
    names = _short(reports)
    rows = [row for place, report in reports.items() for row in rows_of(names[place], report)]
    if not rows:
        raise NotLoadable(f"{', '.join(reports)}: no figure of a model to compare; {WANTS}")
    known_rows = references(rows)
    rows, taken = gathered([*known_rows, *rows], names)
    known_rows, rows = [r for r in rows if r.known], [r for r in rows if not r.known]
    named = named_alone([*known_rows, *rows])
    known_rows, rows = named[: len(known_rows)], named[len(known_rows) :]
    table = Table(rows, known_rows, _baseline(baseline, names, [*rows, *known_rows]))
    table = table.where(where)
    table = table.sort(sort) if sort else table
    return Compared(table, _notes(table), [row for row in taken if row.report])


def reports_in(place: Path) -> dict[str, Report]:
    """{path: report} of a folder and of the folders in it, or of a file that `--json` was written
    to. Raises NotLoadable where there is none."""
    if place.is_file():
        return {str(place): _read(place)}
    if not place.is_dir():
        raise NotLoadable(f"{place} does not exist: {WANTS}")
    found = dict[str, Report]()
    if (place / REPORT).is_file():
        found[str(place)] = _read(place / REPORT)
    for each in _inner(place, found.get(str(place))):
        found |= reports_in(each)
    if not found:
        raise NotLoadable(f"{place} holds no {REPORT}, nor does a folder in it: {WANTS}")
    return found


def _inner(place: Path, report: Report | None) -> list[Path]:
    """The folders with a report in a folder; those of several budgets in their order."""
    front = report.part(Front) if report else None
    order = [Path(each.out).name for each in front.points if each.out] if front else []
    held = [each for each in sorted(place.iterdir()) if (each / REPORT).is_file()]
    held = [each for each in held if each.name[0] != "."]
    return sorted(held, key=lambda p: order.index(p.name) if p.name in order else len(order))


def _short(places: Iterable[str]) -> dict[str, str]:
    """{path: the end of it that tells it from the others}"""
    places = list(places)
    above = os.path.commonpath([os.path.dirname(os.path.abspath(each)) for each in places])
    return {each: os.path.relpath(each, above) for each in places}


def _read(file: Path) -> Report:
    """A report of any verb. Raises NotLoadable for what is none of this version."""
    advice = f"leave it out, or {WANTS}"
    data = read(file, _Report, "is no report of tlm", advice)
    if data["schema_version"] != SCHEMA_VERSION:
        raise NotLoadable(f"{file} was written by another version of tlm: run its command again")
    try:
        return Report.read(data)
    except ValueError as error:
        raise NotLoadable(f"{file} is no report of this tlm ({error}): {advice}") from error


def _baseline(name: str | Path | None, names: dict[str, str], rows: list[Row]) -> Row:
    if name is None:
        return rows[0]
    wanted = names.get(str(name), str(name))
    found = [row for row in rows if row.name == wanted or row.name.startswith(f"{wanted}: ")]
    if found:
        return found[0]
    raise Usage(f"--baseline {name} is none of the results: {', '.join(r.name for r in rows)}")


def _notes(table: Table) -> list[str]:
    """What is mixed in the results, in sentences."""
    verbs = sorted({row.verb for row in table.rows if row.verb})
    told = []
    if len(verbs) > 1:
        told.append(
            f"results of {', '.join(verbs)}: a figure stands only where a command measures it"
        )
    for row in table.rows:
        if row.report and any("damaged" in each for each in warnings(row.report)):
            told.append(f"{row.name}: its report warns that the model is damaged")
    return told


def _detail(row: Row) -> str:
    """The command's recipe, versions and warnings of a result."""
    ending = row.report.part(Ending) if row.report else None
    if ending is None:
        return "no recipe is known"
    versions = {name: str(each) for name, each in ending.versions.items()}  # torch's is no str
    told = {"recipe": ending.recipe, "versions": versions}
    return written(told | ({"warnings": [*ending.warnings]} if ending.warnings else {}))


# ---- files


def check_page(out: str) -> Path:
    """The file of a page. Raises Usage where it must not be written."""
    file = path_of(out)
    if file.suffix.lower() not in (".html", ".htm"):
        raise Usage(f"--out {file} is no .html file: give the page such a name")
    if file.exists() and not (file.is_file() and MARK.encode() in file.read_bytes()[:LARGEST]):
        raise Usage(f"--out {file} exists, and tlm did not write it: give another file")
    return file


def write_page(found: Compared, file: Path, title: str) -> None:
    """Write the page, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, printable(found.page(title)))


def write_pictures(found: Compared, folder: Path) -> list[Path]:
    """Write every picture as PNG and as SVG; returns the files."""
    files: dict[Path, str | bytes] = {}
    for picture in found.pictures():
        files[folder / f"{picture.name}.png"] = png(picture)
        files[folder / f"{picture.name}.svg"] = svg(picture)
    for file in files:
        if file.exists() and not any(mark in file.read_bytes() for mark in MARKS):
            raise Usage(f"{file} is no picture of tlm: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_whole(file, content)
    return [*files]


def add_page(reports: Mapping[str, Report], folder: Path) -> None:
    """Put the page of the results in a folder, those of a study or of several budgets, into it."""
    write_page(beside(reports), folder / PAGE, folder.name)
