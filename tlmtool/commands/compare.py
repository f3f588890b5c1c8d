"""`tlm compare`: the reports of earlier runs side by side, as tables, pictures and a page."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tlmtool.commands.results import WANTS, reports_in, short
from tlmtool.commands.tabling import Table
from tlmtool.failure import NotLoadable, Usage
from tlmtool.files.notation import written
from tlmtool.files.places import path_of
from tlmtool.files.writing import write_whole
from tlmtool.report import plots
from tlmtool.report.before import references
from tlmtool.report.card import section
from tlmtool.report.cells import SIZES
from tlmtool.report.figures import View
from tlmtool.report.joining import gathered
from tlmtool.report.latex import latex
from tlmtool.report.page import MARK, Detail, page
from tlmtool.report.parts.ending import Ending
from tlmtool.report.picture import MARKS, Picture, png, svg
from tlmtool.report.pictures import pictures_of
from tlmtool.report.printable import printable
from tlmtool.report.report import Report
from tlmtool.report.rows import Row, each_report, named_alone, rows_of
from tlmtool.report.seeding import over_seeds
from tlmtool.report.spots import sizes
from tlmtool.report.views import warnings

FORMATS = ("table", "csv", "json", "latex", "markdown")
PAGE = "page.html"
NO_PLOTS = "without pictures: they need pip install 'tlmtool[plots]'"
LARGEST = 2**16  # bytes of a page in which the mark of tlm is looked for


class NoSuchRow(Usage):
    """The baseline is none of the results."""


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

    `baseline`: the folder, or the name of a row, that all are compared with; by default the first
    that most others can be compared with. Raises NotLoadable for what holds no result, Usage for a
    figure that no result has."""
    found, seen = dict[str, Report](), set[str]()
    for folder in folders:
        found |= reports_in(path_of(folder), seen)
    try:
        return beside(found, baseline, where, sort)
    except NoSuchRow:
        if not path_of(str(baseline)).exists():
            raise
    found = reports_in(path_of(str(baseline)), seen) | found
    return beside(found, baseline, where, sort)


def beside(
    reports: Mapping[str, Report],
    baseline: str | Path | None = None,
    where: Iterable[str] = (),
    sort: str | None = None,
) -> Compared:
    """The same of {path: report}."""
    held = {
        place: {os.path.basename(p) for p in reports if os.path.dirname(p) == place}
        for place in reports
    }
    told = [place for place, each in reports.items() if rows_of(place, each, held[place])]
    if not told:
        raise NotLoadable(f"{', '.join(reports)}: no figure of a model to compare; {WANTS}")
    names = short(told)
    rows = [row for each in told for row in rows_of(names[each], reports[each], held[each])]
    known, rows, taken = gathered(references(rows), rows)
    rows = over_seeds(rows)
    named = named_alone([*known, *rows])
    known, rows = named[: len(known)], named[len(known) :]
    every = [*rows, *known]
    homes = {row.name: row.home for row in taken}
    base = _usual(every) if baseline is None else _baseline(str(baseline), names, every, homes)
    table = Table(rows, known, base)
    table = table.where(where)
    table = table.sort(sort) if sort else table
    return Compared(table, _notes(table), [row for row in taken if row.report])


def _usual(every: list[Row]) -> Row:
    """The first result that most others, and models before, can be compared with."""

    def alike(row: Row) -> int:
        marks = {(k, c.mark) for k, c in row.cells.items() if k not in SIZES and c.mark}
        return sum(any((k, c.mark) in marks for k, c in r.cells.items()) for r in every)

    return max((row for row in every if not row.known), key=alike)


def _baseline(name: str, names: dict[str, str], rows: list[Row], homes: dict[str, str]) -> Row:
    """The row of that name, or the first of a folder. `homes`: the rows that others stand in."""
    place = os.path.realpath(path_of(name))
    below = [n for p, n in names.items() if f"{os.path.realpath(p)}/".startswith(f"{place}/")]
    for wanted in (homes.get(each, each) for each in (name, *below)):
        for row in rows:
            theirs = [each.name for each in (row, *row.seeds)]
            starts = (f"{wanted}: ", f"{wanted}, predicted")
            if wanted in theirs or row.name.startswith(starts):
                return row
    raise NoSuchRow(f"--baseline {name} is none of the results: {', '.join(r.name for r in rows)}")


def _notes(table: Table) -> list[str]:
    """What is mixed in the results, in sentences."""
    verbs = sorted({row.verb for row in table.rows if row.verb})
    told = []
    if len(verbs) > 1:
        told.append(
            f"results of {', '.join(verbs)}: a figure stands only where a command measures it"
        )
    for row in each_report(table.rows):
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
