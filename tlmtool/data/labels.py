"""A raw label, as a table holds it, becomes a figure or the id of a class.

A whole number is the same label however it is written: 1, 1.0, "1" or "1.0".
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from tlmtool.data.glue import Task
from tlmtool.failure import NotLoadable

WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
MOST = 10_000  # classes named by numbers: 0 to the largest, if that is below
Turn = Callable[[str, Any], int | float]


def turn_of(task: Task) -> Turn:
    """(where, raw label) -> id or figure; raises NotLoadable, with `where`, for others."""
    return _figure_of(task) if task.kind == "regression" else _id_of(task)


def class_names(source: str, labels: Iterable[str]) -> tuple[str, ...]:
    """The names of classes, by id, of the labels that there are: of whole numbers from 0 on each
    up to the largest, so that the number is the id; of others the names in order.

    Raises NotLoadable where all are one."""
    found = set(labels)
    numbers = {_whole(name) for name in found}
    names = sorted(found) if None in numbers else [str(number) for number in sorted(numbers)]
    if len(names) < 2:
        raise NotLoadable(f"{source}: every label is {_short(names[0])}, two classes are needed")
    if None not in numbers and min(numbers) >= 0 and max(numbers) < MOST:
        return tuple(str(number) for number in range(max(numbers) + 1))
    return tuple(names)


def class_name(where: str, value: Any) -> str:
    """A raw label as text; raises NotLoadable for a number that is not whole, a list and others."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if not isinstance(value, str | int):
        raise NotLoadable(f"{where}: the label {_short(value)} is neither a name nor an integer")
    return str(value).strip()


def _id_of(task: Task) -> Turn:
    """By name, or by number: that which names a class, or, where no class is named by one, its
    place."""
    ids = {name: i for i, name in enumerate(task.labels)}
    named = {n: i for name, i in ids.items() if (n := _whole(name)) is not None}
    numbers = named or {i: i for i in range(len(task.labels))}

    def turn(where: str, value: Any) -> int:
        name = class_name(where, value)
        found = ids.get(name, numbers.get(_whole(name)))
        if found is None:
            shown = (name if named else f"{name} ({i})" for name, i in [*ids.items()][:9])
            raise NotLoadable(
                f"{where}: the label {_short(name)} is out of range: the classes of {task.name} "
                f"are {', '.join(shown)}{', ...' if len(ids) > 9 else ''}"
            )
        return found

    return turn


def _figure_of(task: Task) -> Turn:
    low, high = task.bounds or (-math.inf, math.inf)

    def turn(where: str, value: Any) -> float:
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found):
            raise NotLoadable(f"{where}: the label {_short(value)} is not a finite number")
        if not low <= found <= high:
            raise NotLoadable(
                f"{where}: the label {_short(value)} is out of range: scores of {task.name} lie "
                f"between {low:g} and {high:g}"
            )
        return found

    return turn


def _whole(name: str) -> int | None:
    """The number that a text writes, if it is whole."""
    return int(name.partition(".")[0]) if WHOLE.fullmatch(name) else None


def _short(value: Any) -> str:
    return repr(value[:40] if isinstance(value, str) else value)[:60]
