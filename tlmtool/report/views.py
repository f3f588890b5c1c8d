"""A report as small tables and facts of text; the terminal and the card show these."""

from textwrap import wrap

from tlmtool.report.figures import TEXT_COLUMNS, View
from tlmtool.report.layout import Document
from tlmtool.report.naming import shortened
from tlmtool.report.parts.ending import Ending, Predicted
from tlmtool.report.parts.quality import Quality

NARROWEST = 16  # letters that the first column keeps where a table is wider than the terminal


def views(report: Document, full: bool = False) -> list[View]:
    """The tables of all parts, without empty columns; those that join are one table.

    `full`: every site on a row of its own."""
    found: dict[str | int, View] = {}
    for place, view in enumerate(v for part in report.parts for v in part.views(report, full)):
        if view.rows:
            key = view.joins or place
            found[key] = _joined(found[key], view) if key in found else view
    mark = ""
    if predicted := report.part(Predicted):
        mark = ", ".join(filter(None, ["predicted", predicted.predicted_if]))
        mark = f" ({mark})"
    return [_narrowed(view._replace(title=view.title + mark)) for view in found.values()]


def facts(report: Document, full: bool = False) -> list[tuple[str, str]]:
    """The rest as (label, sentence): where the figures come from and what they took."""
    found = (fact for part in report.parts for fact in part.facts(report, full))
    return [(label, text) for label, text in found if text]


def warnings(report: Document) -> tuple[str, ...]:
    """What could not be done as it was asked for."""
    ending = report.part(Ending)
    return ending.warnings if ending else ()


def alarms(report: Document) -> tuple[str, ...]:
    """Those of the warnings that say that the model is damaged."""
    quality = report.part(Quality)
    return (quality.alarms if quality else None) or ()


def lines(view: View, width: int) -> list[str]:
    """Header and rows in columns two spaces apart; names give way where `width` is too small. A
    last column of text is broken into lines."""
    table = _wrapped([view.header, *view.rows], width)
    widths = [max(len(row[i]) for row in table) for i in range(len(view.header))]
    room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = max(NARROWEST, min(widths[0], room))
    names = shortened([row[0] for row in table], widths[0])
    table = [[name, *row[1:]] for name, row in zip(names, table, strict=True)]
    widths[0] = max(map(len, names))

    def cell(text: str, index: int) -> str:
        aligned_left = index == 0 or view.header[index] in TEXT_COLUMNS
        return text.ljust(widths[index]) if aligned_left else text.rjust(widths[index])

    return ["  ".join(map(cell, row, range(len(row)))).rstrip() for row in table]


def _wrapped(table: list[list[str]], width: int) -> list[list[str]]:
    """Rows whose last cell is text, each in as many rows as it takes."""
    if table[0][-1] != "text":
        return table
    room = max(NARROWEST, width - max(NARROWEST, *(len(row[0]) for row in table)) - 2)
    found = []
    for *names, text in table:
        first, *more = wrap(text, room, break_on_hyphens=False) or [""]
        found += [[*names, first], *([*[""] * len(names), each] for each in more)]
    return found


def _joined(first: View, more: View) -> View:
    """Two views as one table, under the titles and notes of both."""
    titles = dict.fromkeys([*first.title.split(" and "), more.title])
    note = "\n".join(filter(None, [first.note, more.note]))
    rows = [*first.rows, *more.rows]
    return first._replace(title=" and ".join(titles), rows=rows, note=note)


def _narrowed(view: View) -> View:
    """The view without columns that are empty in every row."""
    kept = [i for i in range(len(view.header)) if i == 0 or any(row[i] for row in view.rows)]
    rows = [[row[i] for i in kept] for row in view.rows]
    return view._replace(header=[view.header[i] for i in kept], rows=rows)
