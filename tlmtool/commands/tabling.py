"""Rows of figures side by side: sorted, chosen, each with its difference to one of them."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tlmtool.failure import Failure, Usage
from tlmtool.measuring.intervals import by_left_out
from tlmtool.report.cells import SIZES, Cell, title_of
from tlmtool.report.checks import comparison
from tlmtool.report.figures import View, figure, human
from tlmtool.report.report import OPERATORS
from tlmtool.report.rows import Row
from tlmtool.tasks.metrics import METRICS
from tlmtool.training.verdicts import paired

VIEWS = (  # of sizes and costs: a table each, so that it fits a terminal
    ("size", ("keep", "parameters", "bytes", "flops")),
    ("time and memory", ("latency", "seconds", "memory")),
)
COUNTED = ("flops", "latency")  # of a forward pass, whose size must be known to compare them


class Difference(NamedTuple):
    """A figure less that of the baseline. `why`: why there is no interval, or no difference."""

    value: float | None
    interval: tuple[float, float] | None
    why: str = ""


class Table:
    """Results side by side. `known`: the models before, which are shown and never left out;
    `baseline`: the row that all others are compared with, by default the first."""

    def __init__(self, rows: Iterable[Row], known: Iterable[Row] = (), baseline: Row | None = None):
        self.rows, self.known = list(rows), list(known)
        self.baseline = baseline or self.rows[0]

    @cached_property
    def keys(self) -> list[str]:
        """The names of all figures: sizes first, then what was measured."""
        held = dict.fromkeys(key for row in [*self.known, *self.rows] for key in row.cells)
        return [k for k in SIZES if k in held] + [k for k in held if k not in SIZES]

    def value(self, row: Row, key: str) -> float | None:
        """A figure of a row by its name here, by the end of one, or by its name in the report."""
        ends = [k for k in self.keys if k.endswith(f".{key}")]
        if key == "score":
            ends = [k for k in self.keys if k not in SIZES and "." in k]
        name = key if key in self.keys else ends[0] if len(ends) == 1 else None
        if name is not None:
            return row.cells[name].value if name in row.cells else None
        try:
            found = [each.report.figure(key) for each in row.seeds or (row,) if each.report]
        except Usage:
            return None
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None

    def _known(self, key: str) -> None:
        if all(self.value(row, key) is None for row in self.rows):
            raise Usage(f"no result has one figure {key}; they have {', '.join(self.keys)}")

    def where(self, tests: Iterable[str]) -> "Table":
        """The rows of which every test, such as 'keep<0.8', is true."""
        rows = self.rows
        for test in tests:
            key, sign, limit = comparison(test)
            self._known(key)
            held = ((row, self.value(row, key)) for row in rows)
            rows = [r for r, v in held if v is not None and OPERATORS[sign](v, limit)]
        if not rows:
            told = " and ".join(tests)
            raise Usage(f"{told} is true of none of the {len(self.rows)} results")
        return Table(rows, self.known, self.baseline)

    def sort(self, key: str) -> "Table":
        """The rows by a figure, the smallest first; by '-figure' the largest first. Rows without
        it come last."""
        name, sign = key.removeprefix("-"), -1 if key.startswith("-") else 1
        self._known(name)

        def place(row: Row) -> tuple[bool, float]:
            value = self.value(row, name)
            missing = value is None or not np.isfinite(value)
            return missing, 0.0 if value is None or missing else sign * value

        return Table(sorted(self.rows, key=place), self.known, self.baseline)

    def difference(self, row: Row, key: str) -> Difference:
        """How far a figure lies from the baseline's, where the two were measured on the same."""
        first, mine = self.first(key), row.cells.get(key)
        if row is first or mine is None:
            return Difference(None, None)
        return difference(mine, first.cells[key])

    def first(self, key: str) -> Row:
        """What a measured figure is compared with: the baseline, or where that lacks the figure the
        first row that has it."""
        return next(r for r in [self.baseline, *self.rows, *self.known] if key in r.cells)

    def records(self) -> list[dict[str, Any]]:
        """A flat dict for each row: every figure, its difference, and the ends of the interval."""
        found = []
        for row in [*self.known, *self.rows]:
            record: dict[str, Any] = {"name": row.name, "verb": row.verb or None}
            for key in self.keys:
                cell = row.cells.get(key)
                known = cell is not None and np.isfinite(cell.value)
                record[key] = cell.value if cell and known else None
                if key in SIZES:
                    continue
                apart = self.difference(row, key)
                low, high = apart.interval or (None, None)
                record |= {f"{key}.difference": apart.value}
                record |= {f"{key}.low": low, f"{key}.high": high}
            found.append(record)
        return found

    def views(self) -> list[View]:
        """The tables: sizes, costs, and one for each figure that was measured."""
        sizes = [view for title, keys in VIEWS if (view := self._sizes(title, keys))]
        return sizes + [self._measured(key) for key in self.keys if key not in SIZES]

    def _sizes(self, title: str, keys: tuple[str, ...]) -> View | None:
        keys = tuple(key for key in keys if key in self.keys)
        if not keys:
            return None
        every, ratios = [*self.known, *self.rows], set[str]()
        if len(self.rows) > 1:
            ratios = {k for k in keys if k != "keep" and any(self._ratio(r, k) for r in every)}
        header = [""]
        for key in keys:
            header += [title_of(key), "ratio"] if key in ratios else [title_of(key)]
        rows = []
        for row in every:
            cells = [self._name(row, self.baseline)]
            for key in keys:
                cells.append(shown(row.cells.get(key), key))
                cells += [self._ratio(row, key)] if key in ratios else []
            rows.append(cells)
        notes = [f"ratio: to {self.baseline.name}"] if ratios else []
        notes += [note for key in keys for note in self._units(key)]
        return View(title, header, [r for r in rows if any(r[1:])], "\n".join(notes))

    def _units(self, key: str) -> list[str]:
        """What a figure was counted or measured of."""
        names = dict[str, list[str]]()
        for row in [*self.known, *self.rows]:
            if key in COUNTED and key in row.cells and (unit := row.cells[key].unit):
                names.setdefault(unit, []).append(row.name)
        if len(names) == 1:
            return [f"{title_of(key)}: {unit}" for unit in names] if key == "latency" else []
        return [f"{title_of(key)} of {'; '.join(held)}: {unit}" for unit, held in names.items()]

    def _ratio(self, row: Row, key: str) -> str:
        mine, base = row.cells.get(key), self.baseline.cells.get(key)
        if mine is None or base is None or mine.unit != base.unit or not base.value:
            return ""
        return figure(mine.value / base.value)

    def _measured(self, key: str) -> View:
        rows, whys, held = [], dict[str, list[str]](), self.known + self.rows
        for row in held:
            if (cell := row.cells.get(key)) is None:
                continue
            apart = self.difference(row, key)
            low, high = apart.interval or (None, None)
            interval = "" if low is None else f"[{low:+.4f}, {high:+.4f}]"
            value = "" if apart.value is None else f"{apart.value:+.4f}"
            rows.append([self._name(row, self.first(key)), shown(cell, key), value, interval])
            if apart.why:
                whys.setdefault(apart.why, []).append(row.name)
        first = self.first(key).cells[key]
        data = ", ".join(dict.fromkeys(r.cells[key].data for r in held if key in r.cells))
        on = f" on {data}" if data else ""
        note = f"{title_of(key)}{on}: {first.what}, {first.better} is better".replace(": ,", ":")
        note += f"\ndifference: to {self.first(key).name}" * any(row[2] for row in rows)
        note += "; interval: 95 %, paired" * any(row[3] for row in rows)
        for why, names in whys.items():
            every = len(names) == len(rows) - 1 > 2
            note += f"\n{'all others' if every else '; '.join(names)}: {why}"
        return View(title_of(key), ["", "value", "difference", "interval"], rows, note)

    def _name(self, row: Row, baseline: Row) -> str:
        return f"{row.name} (baseline)" if row is baseline else row.name


def difference(mine: Cell, base: Cell) -> Difference:
    """mine - base, with a paired interval where both hold what each example, or seed, gave."""
    value = mine.value - base.value
    if mine.alone:
        return Difference(None, None)
    if not np.isfinite(value):
        return Difference(None, None, "no finite figure here or in the baseline")
    if mine.seeds and base.seeds:
        if not mine.source or mine.source != base.source or mine.seeds.keys() != base.seeds.keys():
            return Difference(None, None, "other data or seeds than the baseline")
        found = paired(*([c.seeds[s] for s in sorted(c.seeds)] for c in (mine, base)))
        return Difference(
            value,
            found["interval"],
            "" if found["interval"] else "the same difference in every seed",
        )
    if mine.mark and mine.mark == base.mark and not (mine.examples and base.examples):
        return Difference(value, None)  # of one report, which has no more than the figures
    if mine.examples is None or base.examples is None:
        return Difference(None, None, "its report, or the baseline's, has no mark of the examples")
    if mine.examples.sha256 != base.examples.sha256:
        way = "against another model" if "against" in mine.what else "in another way"
        return Difference(None, None, f"measured on other examples than the baseline, or {way}")
    return Difference(value, *_interval(mine, base, value))


def _interval(mine: Cell, base: Cell, value: float) -> tuple[tuple[float, float] | None, str]:
    """(the interval of a difference, why there is none)"""
    assert mine.examples and base.examples
    first, second = (np.array(c.examples.left_out) for c in (mine, base))
    if len(first) != len(second) or len(first) < 2:
        return None, ""
    apart = first - second
    if not np.isfinite(apart).all():
        return None, "leaving out examples gives no score"
    try:
        return by_left_out(apart, value), ""
    except Failure:
        return None, "every example gives the same difference"


def shown(cell: Cell | None, key: str) -> str:
    """A figure as text."""
    if cell is None:
        return ""
    if key in SIZES:
        unit = SIZES[key][1]
        if key in ("keep", "latency", "seconds"):
            digits = {"keep": 2, "latency": 2, "seconds": 0}[key]
            return f"{cell.value:.{digits}f} {unit}".strip()
        return human(cell.value, unit)
    metric = METRICS.get(key.rpartition(".")[2])
    return figure(cell.value, metric.digits if metric else 4)
