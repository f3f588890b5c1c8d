"""The matrix of a recipe file: keys with several values each, and what is left out of their
product."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from pathlib import PurePath
from typing import Any, NamedTuple

from tlmtool.failure import Usage, show

MOST = 10_000  # combinations of a matrix; each more costs milliseconds before the first one starts
LONGEST = 100  # letters of the name of a point; a longer one ends in a checksum
LONGEST_TEXT = 40  # letters of a value in it; longer ones are numbered instead
KEYS = ("matrix", "exclude")

Values = dict[str, Any]  # {key: one of its values}


class Matrix(NamedTuple):
    """Keys with their values, and combinations that are left out. A key is `stage.section.key`.
    `only`: values that a run is limited to; names of points stay those of the whole matrix."""

    values: dict[str, list[Any]]
    exclude: list[Values]
    only: Values | None = None

    def points(self, where: str) -> list[Values]:
        """Every combination but those that are left out, the last key changing fastest. Raises
        Usage for too many, and where none is left."""
        count = prod(map(len, self.values.values()))
        if count > MOST:
            raise Usage(f"the matrix of {where} has {count:,} points: at most {MOST:,} are built")
        found = [
            dict(zip(self.values, each, strict=True)) for each in product(*self.values.values())
        ]
        kept = [each for each in found if not any(_holds(x, each) for x in self.exclude)]
        if not kept:
            raise Usage(f"exclude in {where} leaves out all {count} points of its matrix")
        only = self.only or {}
        if not (kept := [each for each in kept if _holds(only, each)]):
            given = ", ".join(f"{_short(key, only)}={show(value)}" for key, value in only.items())
            raise Usage(f"exclude in {where} leaves out all points with {given}, as --set asks for")
        return kept

    def narrowed(self, key: str, value: Any) -> "Matrix":
        """The same with one value of a key, which may be a new one."""
        known = _mark(value) in map(_mark, self.values[key])
        several = self.values[key] if known else [*self.values[key], value]
        return Matrix(
            {**self.values, key: several}, self.exclude, {**(self.only or {}), key: value}
        )

    def texts(self, values: Values) -> dict[str, str]:
        """{short name of a key: its value as text}, in the order of the matrix."""
        return {
            _short(key, self.values): _texts(several)[_place(values[key], several)]
            for key, several in self.values.items()
            if key in values
        }


def label(texts: Mapping[str, str]) -> str:
    """'keep=0.5,method=svd': the name of a point, which can be that of a folder."""
    text = ",".join(f"{name}={value}" for name, value in texts.items())
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def matrix_of(body: Mapping[Any, Any], where: str, prefix: str = "") -> Matrix:
    """What a file, or a stage of it, says under `matrix` and `exclude`. `prefix` is put before each
    key. Raises Usage for what is no matrix."""
    given, left_out = body.get("matrix") or {}, body.get("exclude") or []
    if "matrix" in body and given in ({}, []):
        raise Usage(f"matrix in {where} is empty: give keys with lists of values, or leave it out")
    if not isinstance(given, dict):
        raise Usage(f"matrix in {where} must be keys with lists of values, got {show(given)}")
    values: dict[str, list[Any]] = {}
    for key, several in given.items():
        if not isinstance(several, list) or not several:
            raise Usage(
                f"{key} in the matrix of {where} needs a list of values, got {show(several)}"
            )
        marks = [_mark(each) for each in several]
        if twice := [v for v, mark in zip(several, marks, strict=True) if marks.count(mark) > 1]:
            raise Usage(f"{key} in the matrix of {where} has the value {show(twice[0])} twice")
        values[f"{prefix}{key}"] = several
    if not isinstance(left_out, list) or not all(isinstance(x, dict) and x for x in left_out):
        raise Usage(f"exclude in {where} must be a list of keys with values, got {show(left_out)}")
    return Matrix(values, [{f"{prefix}{key}": x for key, x in each.items()} for each in left_out])


def joined(matrices: Iterable[Matrix], where: str, prefix: str = "") -> Matrix:
    """One matrix of those of a file and of its stages. Raises Usage for a key that two have.
    `prefix`: of each key, what its user did not write."""
    values: dict[str, list[Any]] = {}
    exclude: list[Values] = []
    for each in matrices:
        if twice := next((key for key in each.values if key in values), None):
            raise Usage(f"{twice} stands in two matrices of {where}: give it in one of them")
        values |= each.values
        exclude += each.exclude
    for key, value in ((key, value) for each in exclude for key, value in each.items()):
        name = key.removeprefix(prefix)
        if key not in values:
            known = ", ".join(each.removeprefix(prefix) for each in values) or "no keys"
            raise Usage(f"exclude in {where} names {name}, and its matrix has {known}")
        if _mark(value) not in map(_mark, values[key]):
            raise Usage(
                f"exclude in {where} names {name} {show(value)}, which is no value of its matrix"
            )
    return Matrix(values, exclude)


def _holds(given: Values, point: Values) -> bool:
    return all(_mark(value) == _mark(point[key]) for key, value in given.items())


def _mark(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _place(value: Any, several: list[Any]) -> int:
    return [*map(_mark, several)].index(_mark(value))


def _short(key: str, keys: Iterable[str]) -> str:
    """The shortest end of a dotted key that no other key ends with."""
    parts = key.split(".")
    ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
    others = [each for each in keys if each != key]
    return next((e for e in ends if not any(f".{o}".endswith(f".{e}") for o in others)), key)


def _texts(several: list[Any]) -> list[str]:
    """The values of a key as parts of the name of a folder, all different."""
    found = [_text(each) for each in several]
    different = {each.lower() for each in found}  # some file systems know no case
    if len(different) < len(found) or not all(0 < len(each) <= LONGEST_TEXT for each in found):
        return [str(place) for place in range(1, len(several) + 1)]
    return found


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return "+".join(map(_text, value))
    if not isinstance(value, str):
        return repr(value)
    return re.sub(r"[^A-Za-z0-9_.+@-]+", "-", PurePath(value).name).strip("-.")
