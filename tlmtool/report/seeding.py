"""Results that differ in their seed alone are one row: their mean, with what each seed gave."""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from statistics import fmean
from typing import Any

from tlmtool.report.cells import SIZES, Cell
from tlmtool.report.parts.ending import Ending, Predicted
from tlmtool.report.parts.model import Model
from tlmtool.report.rows import MEASURES, Row, each_report

OTHER = ("seed", "output")  # keys of a recipe that make no other result
SEED = re.compile(r"(^|[,/])seed=-?\d+(,|(?=/|$))")  # in the name of a point of a matrix


def over_seeds(rows: list[Row]) -> list[Row]:
    """The rows, where those of one recipe with several seeds are one, at the place of the first."""
    groups: dict[str, list[Row]] = {}
    alone = {id(row) for row in each_report(rows)} - _shared(rows)
    for place, row in enumerate(rows):
        groups.setdefault((id(row) in alone and _recipe(row)) or str(place), []).append(row)
    found = list[Row]()
    for held in groups.values():
        seeds = {_ending(row).seed for row in held} if len(held) > 1 else set()
        found += [_joined(held)] if len(seeds) == len(held) else held
    return found


def _shared(rows: list[Row]) -> set[int]:
    """The rows that share a report, as the arms of a study do."""
    count = Counter(id(row.report) for row in rows)
    return {id(row) for row in rows if count[id(row.report)] > 1}


def _ending(row: Row) -> Ending:
    ending = row.report.part(Ending) if row.report else None
    assert ending is not None
    return ending


def _recipe(row: Row) -> str:
    """What makes a result, but for its seed, and the figures that are known of it; empty for what
    is none, or is not known. Results of which other figures are known keep their rows."""
    ending = row.report.part(Ending) if row.report else None
    if row.report is None or ending is None or row.verb in MEASURES or row.report.part(Predicted):
        return ""
    recipe = {key: each for key, each in ending.recipe.items() if key not in OTHER}
    model = row.report.part(Model) or Model()
    made = [row.verb, recipe, model.sha256, row.base, ending.versions.get("tlm")]
    figures = sorted((key, cell.unit, cell.data) for key, cell in row.cells.items())
    return json.dumps([made, figures], sort_keys=True, default=str)


def _joined(rows: list[Row]) -> Row:
    """One row of several seeds."""
    first = rows[0]
    data = _ending(first).recipe.get("training", {}).get("data")
    cells = {
        key: _mean(key, {_ending(row).seed: row.cells[key] for row in rows}, data)
        for key in first.cells
    }
    return replace(first, name=_name([row.name for row in rows]), cells=cells, seeds=tuple(rows))


def _mean(key: str, each: dict[int, Cell], data: Any) -> Cell:
    """The mean of a figure. Scores hold each of their values, by which they are compared."""
    first = next(iter(each.values()))
    mean = fmean(cell.value for cell in each.values())
    if key in SIZES:
        return first._replace(value=mean)
    marks = [cell.mark for cell in each.values()]
    source = marks[0] if len({*marks}) == 1 else ""
    if not source and all(marks) and not data:  # each seed has its own examples
        source = " ".join(f"{seed} {cell.mark}" for seed, cell in sorted(each.items()))
    return first._replace(
        value=mean,
        examples=None,
        seeds={seed: cell.value for seed, cell in each.items()},
        what=f"{first.what}, mean over {len(each)} seeds".removeprefix(", "),
        source=source or (os.path.normpath(str(data)) if data else ""),
    )


def _name(names: list[str]) -> str:
    """The name without its seed, where that tells them apart."""
    without = {SEED.sub(lambda found: found[1] * bool(found[2]), name) for name in names}
    many = f"{len(names)} seeds"
    return (
        f"{without.pop().strip('/') or 'all'}, {many}"
        if len(without) == 1
        else f"{names[0]}, {many}"
    )
