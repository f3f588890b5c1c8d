"""What was measured of a model joins the row of that model."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isclose

from tlmtool.report.cells import Cell
from tlmtool.report.parts.ending import Ending
from tlmtool.report.rows import MEASURES, Row

OWN = ("keep", "parameters", "bytes", "flops")  # of the model itself, however it is measured
SPENT = ("seconds", "memory")  # of a command, and not of the model
NEAR = 1e-5  # figures that differ by less than this share are one, computed in another order


def gathered(known: list[Row], rows: list[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """(models before, rows, rows that others have taken in): what was measured of a model joins
    the rows with the same weights, and a model before joins that of the result that it is.

    Figures of the model's own report stay. A measurement keeps its row where one of its figures is
    there already, unless examples, settings and value are the same."""
    every = [*known, *rows]
    inside: list[list[Row]] = [[] for _ in every]  # what each has taken in
    taken = set[int]()
    for place, row in enumerate(every):
        homes = _homes(row, every)
        if not homes:
            continue
        more = {key: cell for key, cell in row.cells.items() if key not in SPENT}
        if row.known:  # its error against itself is no figure of the result
            more.pop("feature_error", None)
        if all(fits(more, every[i].cells) and _alike(row, inside[i]) for i in homes):
            for i in homes:
                own = {k: c for k, c in every[i].cells.items() if c.mark or k not in more}
                sizes = {k: c for k, c in every[i].cells.items() if k in (*OWN, *SPENT)}
                every[i] = replace(every[i], cells=every[i].cells | more | own | sizes)
                inside[i].append(row)
            taken.add(place)
            every[place] = replace(row, home=every[homes[0]].name)
        elif not row.known:
            home = every[homes[0]]
            every[place] = replace(row, name=f"{row.name}: {home.name}", base=home.base)
    left = [row for place, row in enumerate(every) if place not in taken]
    return (
        [row for row in left if row.known],
        [row for row in left if not row.known],
        [every[place] for place in sorted(taken)],
    )


def _homes(row: Row, every: list[Row]) -> list[int]:
    """The places of the rows of the model that a measurement, or a model before, is of."""
    if not row.weights or not (row.known or row.verb in MEASURES):
        return []
    same = [i for i, each in enumerate(every) if each.weights == row.weights]
    same = [i for i in same if not (c := every[i].config) or not row.config or c == row.config]
    results = [i for i in same if not every[i].known and every[i].verb not in MEASURES]
    before = [] if row.known else [i for i in same if every[i].known]
    if len({_made(every[i]) for i in results}) > 1:  # equal weights under other settings
        return []
    return results or before[:1]  # the same model may be there for several texts


def _made(row: Row) -> str:
    """The recipe of a result, but for its folder: a kernel may be another with equal weights."""
    ending = row.report.part(Ending) if row.report else None
    recipe = {k: each for k, each in ending.recipe.items() if k != "output"} if ending else {}
    return json.dumps(recipe, sort_keys=True, default=str)


def fits(more: Mapping[str, Cell], held: Mapping[str, Cell]) -> bool:
    """Whether no figure is in both as another one, or measured on something else. A report that
    does not tell on what it measured a figure may have the same one."""
    shared = [key for key in more if key in held and key not in (*OWN, *SPENT)]
    return all(_same(more[key], held[key]) for key in shared)


def _same(first: Cell, second: Cell) -> bool:
    alike = first.mark == second.mark or not (first.mark and second.mark)
    return alike and first.unit == second.unit and isclose(first.value, second.value, rel_tol=NEAR)


def _alike(row: Row, earlier: Iterable[Row]) -> bool:
    """Whether a measurement has the settings of each earlier one with the same figures."""
    for each in earlier:
        shared = (row.cells.keys() & each.cells.keys()) - {*OWN, *SPENT}
        if shared and row.settings != each.settings:
            return False
    return True
