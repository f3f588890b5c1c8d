"""The models before their changes, as the reports of results have them, as rows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import exp, isclose

from tlmtool.report.cells import SIZES, Cell, key_of
from tlmtool.report.joining import NEAR, fits
from tlmtool.report.parts.costs import FileBytes, Flops, Parameters
from tlmtool.report.parts.ending import Predicted
from tlmtool.report.parts.evaluations import short
from tlmtool.report.parts.front import DENSE, WHOLE, Front
from tlmtool.report.parts.int8 import Int8
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quality import Quality
from tlmtool.report.parts.quantization import Quantization
from tlmtool.report.parts.score import Score
from tlmtool.report.report import Report
from tlmtool.report.rows import Row, each_report, plain, tried, unpaired, weights_of

CHANGES = ("compress", "quantize")  # verbs whose reports have the model before
MOST = 700  # nats; a larger loss has a perplexity that no float holds
BEFORE = "before"  # a model before that has factors already
WHOLE_LABELS = (DENSE, BEFORE)  # of models whose weights were read, and not rounded


def references(rows: list[Row]) -> list[Row]:
    """The models before, by themselves and in 8 bits, as the reports of the rows have them; each
    model once for each text that it was measured on. Rounded ones that are rows are left out."""
    found: list[Row] = []
    for row in each_report(rows):
        if row.verb in CHANGES and row.report and not row.report.part(Predicted):
            for each in _before(row):
                _add(found, each, row.name)
    made = [(_rounded(row), row) for row in each_report(rows)]
    found = [row for row in found if not any(_is(row, *each) for each in made)]
    labels = Counter(row.label for row in found)
    for place, row in enumerate(found):
        label = row.label if labels[row.label] == 1 else ""  # else it would tell no two apart
        weights = row.weights if row.label in WHOLE_LABELS else frozenset[str]()
        found[place] = replace(row, label=label, weights=weights)
    return sorted(found, key=lambda row: row.name)


def _add(found: list[Row], new: Row, whose: str) -> None:
    """Add a model before to those that were found, in the row of one that it is."""
    same = [row for row in found if _kind(row) == _kind(new)]
    for row in same:
        if fits(new.cells, row.cells):
            found[found.index(row)] = replace(row, cells=new.cells | row.cells)
            return
    if any(row.name == new.name for row in found):
        more = f"on the text of {whose}" if same else f"which {whose} was made from"
        new = replace(new, name=f"{new.name}, {more}")
    found.append(new)


def _kind(row: Row) -> tuple[str, object]:
    return row.label, row.weights or row.name


def _is(row: Row, kind: tuple[str, object], result: Row) -> bool:
    """Whether a result is the model of a row, and has each of its figures, of the same text."""
    if _kind(row) != kind:
        return False
    figures = {key: cell for key, cell in row.cells.items() if key not in SIZES and not cell.alone}
    held = result.cells
    return all(key in held and _alike(cell, held[key]) for key, cell in figures.items())


def _alike(cell: Cell, other: Cell) -> bool:
    """Whether two figures are of one text. Where that is not known, equal ones are."""
    return cell.mark == other.mark or isclose(cell.value, other.value, rel_tol=NEAR)


def _rounded(row: Row) -> tuple[str, object]:
    """The model before in few bits that a result is."""
    model = row.report.part(Model) if row.report else None
    bits = row.report.part(Quantization) if row.report else None
    if row.verb != "quantize" or model is None or bits is None:
        return "", ""
    return f"int{bits.bits}", weights_of(model.sha256) or f"{model.id}, int{bits.bits}"


def _before(row: Row) -> Iterator[Row]:
    """The model before, where a report has its quality or score; then the same in 8 bits."""
    report = row.report
    assert report is not None
    model, front = report.part(Model) or Model(), report.part(Front)
    name, label = model.id or "the model", DENSE if plain(model) else BEFORE
    known = Row(
        f"{name}, {label}",
        {},
        known=True,
        label=label,
        weights=weights_of(model.sha256),
        base=row.base,
        dense=plain(model),
    )
    quality, int8 = report.part(Quality), report.part(Int8)
    rounded = replace(known, name=f"{name}, int8", label="int8")
    if front and quality is None:  # of several budgets
        whose = replace(row, name=row.name.removesuffix(f": {row.label}"))
        for budget, of in zip(WHOLE, (known, rounded), strict=True):
            for point in (each for each in front.points if each.budget == budget):
                yield replace(of, cells=tried(whose, point, front))
        return
    sizes, measured = _sizes(report), _measured(report)
    if "bytes" not in sizes or not measured:
        return
    yield replace(known, cells=sizes | measured)
    if int8 and int8.value is not None and quality:
        held = {"bytes": Cell(int8.file_bytes)}
        held[quality.name] = _held_out(int8.value, quality)
        if quality.perplexity and int8.value < MOST:
            mark = unpaired(quality.examples)
            held["perplexity"] = Cell(exp(int8.value), examples=mark, alone=True)
        yield replace(rounded, cells=sizes | held)


def _sizes(report: Report) -> dict[str, Cell]:
    sizes, files, flops = report.part(Parameters), report.part(FileBytes), report.part(Flops)
    cells = {} if files is None or files.before is None else {"bytes": Cell(files.before)}
    cells |= {"parameters": Cell(sizes.before)} if sizes else {}
    return cells | ({"flops": Cell(flops.before, unit=flops.note)} if flops else {})


def _measured(report: Report) -> dict[str, Cell]:
    quality, score, found = report.part(Quality), report.part(Score), dict[str, Cell]()
    if quality and quality.before is not None:
        found[quality.name] = _held_out(quality.before, quality)
        if quality.perplexity and quality.perplexity.before is not None:
            mark = unpaired(quality.examples)
            found["perplexity"] = Cell(quality.perplexity.before, examples=mark, alone=True)
    if score:
        key = key_of(score.task, score.metric, short(score.data))
        known = unpaired(score.examples)
        found[key] = Cell(score.before, score.better, known, short(score.data))
    return found


def _held_out(value: float, quality: Quality) -> Cell:
    return Cell(value, "lower", unpaired(quality.examples), "held-out text", what=quality.what)
