"""Reports as rows of one table."""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlmtool.report.cells import Cell, cells_of, key_of, of_kernel, profiled
from tlmtool.report.parts.complexity import Complexity
from tlmtool.report.parts.ending import Ending, Files, Predicted
from tlmtool.report.parts.evaluation import Evaluation, Scored
from tlmtool.report.parts.evaluations import short
from tlmtool.report.parts.front import WHOLE, Front, Point
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.profiled import Profile, Profiled
from tlmtool.report.parts.quality import Quality
from tlmtool.report.parts.study import Study
from tlmtool.report.pieces import Examples
from tlmtool.report.report import Report

NAMES = {  # settings of a measurement that say of what it is, and not how it was made: by section
    "": ("model", "revision", "output"),
    "evaluation": ("baseline", "out"),
    "profiling": ("against",),
}
CONFIG = "config.json"
MEASURES = ("evaluate", "profile")  # verbs that measure a model and make none


@dataclass(frozen=True)
class Row:
    """A result by its name. `report`: what it was read from, which rows may share; `known`: a
    model before its change, which is shown for comparison; `weights`: the checksums of the files of
    its weights, where they are known; `base`: what it was made from; `dense`: that has no factors,
    perhaps few bits; `settings`: how a measurement was made."""

    name: str
    cells: dict[str, Cell]
    report: Report | None = None
    known: bool = False
    verb: str = ""
    label: str = ""  # its name in pictures, where that is another
    weights: frozenset[str] = frozenset()
    base: str = ""
    dense: bool = False
    settings: str = ""
    seeds: tuple["Row", ...] = ()  # of which it is the mean
    config: str = ""  # the checksum of its config.json, where that is known
    home: str = ""  # the name of the row that has taken it in


def rows_of(name: str, report: Report, held: Collection[str] = ()) -> list[Row]:
    """The rows of a report: one, or one for each arm of a study or each try of a search. `held`:
    names of folders of its budgets whose own reports are at hand."""
    name += ", predicted" if report.part(Predicted) else ""
    if study := report.part(Study):
        return list(_arms(name, report, study))
    if part := report.part(Complexity):
        return [
            Row(f"{name}: {each}", of_kernel(part, each), report, verb="profile")
            for each in part.kernels
        ]
    own = Row(name, cells_of(report), report, verb=report.verb, **_whose(report))
    front = report.part(Front)
    if front is None:
        return [each for each in (own, *_second(own)) if each.cells]
    whole = report.part(Quality) is not None
    tries = [p for p in front.points if p.budget not in WHOLE and not p.failed]
    tries = [p for p in tries if not (p.taken and whole) and Path(p.out or "").name not in held]
    return ([own] if whole else []) + [_try(own, each, front) for each in tries]


def _whose(report: Report) -> dict[str, Any]:
    """The weights of the model that a report is about, its base, and how it was measured."""
    model = report.part(Model) or Model()
    base, files = model.base_model or model.id or "", report.part(Files)
    measured = next(iter(_measured(report)), None)
    if measured is not None:
        settings, weights = _settings(report), weights_of(measured.sums)
        config = (measured.sums or {}).get(CONFIG, "")
        return {"weights": weights, "config": config, "base": base, "settings": settings}
    sums = (files and files.sums) or {}
    found = {"weights": weights_of(sums), "config": sums.get(CONFIG, ""), "base": base}
    return found | {"dense": report.verb == "quantize" and plain(model)}


def _measured(report: Report) -> list[Scored | Profiled]:
    """The models that an evaluation or a profile has measured."""
    found, profile = report.part(Evaluation), report.part(Profile)
    scored = [*found.models, *([found.baseline] if found.baseline else [])] if found else []
    return [*scored, *(profile.models if profile else ())]


def weights_of(sums: Mapping[str, str] | None) -> frozenset[str]:
    """What tells weights from others, whatever their files are called."""
    return frozenset(each for file, each in (sums or {}).items() if file != CONFIG)


def plain(model: Model) -> bool:
    """Whether the model that was read is of a type of its own, and not one that tlm has made."""
    return not str(model.type).startswith("tlm-")


def _settings(report: Report) -> str:
    ending = report.part(Ending)
    recipe = dict(ending.recipe) if ending else {}
    for section, names in NAMES.items():
        held = recipe.get(section, {}) if section else recipe
        left = {key: value for key, value in held.items() if key not in names}
        recipe = recipe | {section: left} if section else left
    return json.dumps(recipe, sort_keys=True, default=str)


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
    """The first row of each report, each of several seeds too."""
    found: dict[int, Row] = {}
    for each in (one for row in rows for one in row.seeds or (row,)):
        if each.report:
            found.setdefault(id(each.report), each)
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


def _second(row: Row) -> Iterator[Row]:
    """The second model of an evaluation or a profile."""
    report = row.report
    assert report is not None
    for each in _measured(report)[1:]:
        if isinstance(each, Profiled):
            cells = profiled(each)
        else:
            found = report.part(Evaluation)
            assert found is not None
            swapped = replace(found, models=(each,), baseline=None)
            parts = [swapped if part is found else part for part in report.parts]
            cells = cells_of(Report(report.verb, parts))
        cells = {k: cell for k, cell in cells.items() if k not in ("seconds", "memory")}
        name = f"{row.name}: {each.id}"
        made = replace(row, name=name, cells=cells, report=None, base=each.id)
        config = (each.sums or {}).get(CONFIG, "")
        yield replace(made, weights=weights_of(each.sums), config=config)


def _try(row: Row, point: Point, front: Front) -> Row:
    """A budget that has no report of its own here: one that was tried and not kept, or one of a
    report that was printed."""
    assert row.report is not None
    name = f"{row.name}: {point.budget}"
    cells = tried(row, point, front)
    report = None if row.report.part(Quality) else row.report
    return Row(name, cells, report, verb="compress", label=point.budget, base=row.base)


def tried(row: Row, point: Point, front: Front) -> dict[str, Cell]:
    """The figures of a budget, which are compared with those of the same report alone."""
    quality = row.report.part(Quality) if row.report else None
    examples = unpaired(quality.examples) if quality else None
    values = {"keep": point.keep, "parameters": point.parameters, "bytes": point.bytes}
    values |= {"seconds": point.seconds}
    cells = {key: Cell(value) for key, value in values.items() if value is not None}
    if point.quality is not None:
        found = Cell(point.quality, "lower", examples, "held-out text", what=front.what or "")
        cells[front.quality or "loss"] = found._replace(source=row.name)
    if point.perplexity is not None:
        cells["perplexity"] = Cell(point.perplexity, source=row.name, alone=True)
    if point.score is not None and front.metric:
        cells[front.metric] = Cell(point.score, front.better or "higher", source=row.name)
    return cells


def unpaired(examples: Examples | None) -> Examples | None:
    """The mark of the examples; what each of them gave is not known."""
    return None if examples is None else replace(examples, left_out=())
