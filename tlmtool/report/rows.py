"""Reports as rows of one table."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tlmtool.report.cells import Cell, cells_of, key_of, profiled
from tlmtool.report.parts.costs import FileBytes, Flops, Parameters
from tlmtool.report.parts.ending import Ending, Predicted
from tlmtool.report.parts.evaluation import Evaluation
from tlmtool.report.parts.evaluations import short
from tlmtool.report.parts.front import WHOLE, Front, Point
from tlmtool.report.parts.int8 import Int8
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.profiled import Profile
from tlmtool.report.parts.quality import Quality
from tlmtool.report.parts.quantization import Quantization
from tlmtool.report.parts.score import Score
from tlmtool.report.parts.study import Study
from tlmtool.report.pieces import Examples
from tlmtool.report.report import Report

CHANGES = ("compress", "quantize")  # verbs whose reports have the dense model before


@dataclass(frozen=True)
class Row:
    """A result by its name. `report`: what it was read from, which rows may share; `known`: a
    model before its change, which is shown for comparison; `of`: the model that an evaluation or a
    profile measured."""

    name: str
    cells: dict[str, Cell]
    report: Report | None = None
    known: bool = False
    verb: str = ""
    label: str = ""  # its name in pictures, where that is another
    of: str = ""


def rows_of(name: str, report: Report) -> list[Row]:
    """The rows of a report: one, or one for each arm of a study or each try of a search."""
    if study := report.part(Study):
        return list(_arms(name, report, study))
    measured = report.part(Model) if report.verb == "evaluate" else None
    profile = report.part(Profile)
    of = measured.id if measured else profile.models[0].id if profile else ""
    own = Row(name, cells_of(report), report, verb=report.verb, of=of or "")
    front = report.part(Front)
    if front is None:
        return [each for each in (own, *_second(name, report)) if each.cells]
    tries = [p for p in front.points if p.budget not in WHOLE and not p.failed and not p.out]
    found = [_try(name, each, front) for each in tries if not each.taken]
    return ([own] if report.part(Quality) else []) + found


def references(rows: list[Row]) -> list[Row]:
    """The models before, by themselves and in 8 bits, as the reports of the rows have them; each
    model once, and not in 8 bits where a row is that."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.report is None or row.verb not in CHANGES or row.report.part(Predicted):
            continue
        model = row.report.part(Model)
        name = (model and model.id) or "the model"
        for reference in _before(name, row.report):
            held = found.setdefault(reference.name, reference)
            merged = reference.cells | held.cells
            found[reference.name] = replace(held, cells=merged)
    made = {
        f"{m.id}, int{bits.bits}"
        for row in rows
        if row.report
        if (m := row.report.part(Model))
        and (bits := row.report.part(Quantization))
        and row.verb == "quantize"
    }
    return sorted((r for r in found.values() if r.name not in made), key=lambda row: row.name)


def gathered(rows: list[Row], names: Mapping[str, str]) -> tuple[list[Row], list[Row]]:
    """(rows, rows that others have taken in): what was measured of a model joins its own row.

    `names`: {path: name of its row}. Figures of the model's own report stay, and the time and the
    memory of a measurement are not those of the model. One that was measured before with another
    figure keeps its row, since its settings were others."""
    found, taken = {row.name: row for row in rows}, []
    measured: dict[str, dict[str, Cell]] = {}
    made = {os.path.realpath(path): name for path, name in names.items()}
    for row in rows:
        home = found.get(made.get(os.path.realpath(row.of), f"{row.of}, dense")) if row.of else None
        if home is None or home.name == row.name:
            continue
        more = {key: each for key, each in row.cells.items() if key not in ("seconds", "memory")}
        before = measured.setdefault(home.name, {})
        if any(before[key].value != cell.value for key, cell in more.items() if key in before):
            continue
        before |= more
        found[home.name] = replace(home, cells=more | home.cells)
        taken.append(found.pop(row.name))
    return [*found.values()], taken


def named_alone(rows: list[Row]) -> list[Row]:
    """The rows, with figures of one task under one name, unless a row has two of the task."""
    twice = set()
    for row in rows:
        count = Counter(key.rpartition("@")[0] for key in row.cells if "@" in key)
        twice |= {key for key, many in count.items() if many > 1}

    def called(key: str) -> str:
        task, at, data = key.rpartition("@")
        return key if not at else f"{task}.{data}" if task in twice else task

    return [
        replace(row, cells={called(key): cell for key, cell in row.cells.items()}) for row in rows
    ]


def each_report(rows: list[Row]) -> list[Row]:
    """The first row of each report."""
    found: dict[int, Row] = {}
    for row in rows:
        if row.report:
            found.setdefault(id(row.report), row)
    return list(found.values())


def _arms(name: str, report: Report, study: Study) -> Iterator[Row]:
    """A row for each arm: the mean of its scores."""
    ending = report.part(Ending)
    training = ending.recipe.get("training", {}) if ending else {}
    task, data = str(training.get("task")), short(str(training.get("data")))
    for arm in study.arms:
        own = [each for each in study.results if each.arm == arm.arm]
        seeds = {each.seed: each.score for each in own if each.seed is not None}
        first = own[0]
        told = f"mean over {len(own)} seeds"
        source = os.path.normpath(str(training.get("data")))
        cell = Cell(arm.mean, first.better, None, data, seeds, what=told, source=source)
        key = key_of(task, first.metric, data)
        yield Row(f"{name}: {arm.arm}", {key: cell}, report, verb="finetune", label=arm.arm)


def _second(name: str, report: Report) -> Iterator[Row]:
    """The second model of an evaluation or a profile."""
    found, profile = report.part(Evaluation), report.part(Profile)
    for each in profile.models[1:] if profile else ():
        held = {key: Cell(value) for key, value in profiled(each).items() if value is not None}
        yield Row(f"{name}: {each.id}", held, verb=report.verb, of=each.id or "")
    if found and (model := found.baseline):
        swapped = replace(found, models=(model,), baseline=None)
        parts = [swapped if part is found else part for part in report.parts]
        cells = cells_of(Report(report.verb, parts))
        cells = {k: cell for k, cell in cells.items() if k not in ("seconds", "memory")}
        yield Row(f"{name}: {model.id}", cells, verb=report.verb, of=model.id or "")


def _try(name: str, point: Point, front: Front) -> Row:
    """A budget that was tried and not kept."""
    values = {"keep": point.keep, "parameters": point.parameters, "bytes": point.bytes}
    values |= {front.quality or "loss": point.quality, "seconds": point.seconds}
    cells = {key: Cell(value) for key, value in values.items() if value is not None}
    return Row(f"{name}: {point.budget}", cells, verb="compress", label=point.budget)


def _before(name: str, report: Report) -> Iterator[Row]:
    """The model before, where a report has its quality or score; then the same in 8 bits."""
    sizes, files, flops = report.part(Parameters), report.part(FileBytes), report.part(Flops)
    quality, score, int8 = report.part(Quality), report.part(Score), report.part(Int8)
    if files is None or files.before is None:
        return
    cells = {"bytes": Cell(files.before)}
    cells |= {"parameters": Cell(sizes.before)} if sizes else {}
    if flops:
        cells["flops"] = Cell(flops.before, unit=flops.note)
    shared = {key: cell for key, cell in cells.items() if key != "bytes"}
    measured: dict[str, Cell] = {}
    if quality and quality.before is not None:
        known = _unpaired(quality.examples)
        measured[quality.name] = Cell(quality.before, "lower", known, "held-out text")
        if quality.perplexity and quality.perplexity.before is not None:
            measured["perplexity"] = Cell(quality.perplexity.before, alone=True)
    if score:
        key = key_of(score.task, score.metric, short(score.data))
        known = _unpaired(score.examples)
        measured[key] = Cell(score.before, score.better, known, short(score.data))
    if not measured:
        return
    yield Row(f"{name}, dense", cells | measured, known=True, label="dense")
    if int8 and int8.value is not None and quality:
        held = {"bytes": Cell(int8.file_bytes)}
        held[quality.name] = Cell(int8.value, "lower", _unpaired(quality.examples), "held-out text")
        yield Row(f"{name}, int8", shared | held, known=True, label="int8")


def _unpaired(examples: Examples | None) -> Examples | None:
    """The mark of the examples; what each of them gave is not known."""
    return None if examples is None else replace(examples, left_out=())
