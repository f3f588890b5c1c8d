"""Parts of a report out of plain values: of a library function's records, or of a report.json."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import nan
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from tlmtool.report.layout import Document, Part, kinds, name_of

T = TypeVar("T")
HEAD = ("schema_version", "verb")


def built(kind: type[T], data: Mapping[str, Any]) -> T:
    """A part, or an element of one, with these fields.

    Raises ValueError for a field that it does not have, lacks, or that has another type.

    >>> from tlmtool.report.parts.parity import Parity
    >>> built(Parity, {"max_abs": 0.0, "relative": 0.0, "tolerance": 1e-5}).relative
    0.0
    """
    found: T = _value(kind, data, getattr(kind, "key", ""))
    return found


def parts_of(verb: str, data: Mapping[str, Any]) -> list[Part]:
    """The parts of a report of a verb, from its plain values. Raises ValueError where a key is
    none of a part of this verb, or a part is not as its layout says."""
    left = {key: value for key, value in data.items() if key not in HEAD}
    found: dict[str, Part] = {}
    for kind in kinds():
        if verb not in kind.verbs:
            continue
        if kind.key in left:
            found[kind.key] = built(kind, left.pop(kind.key))
        elif not kind.key:
            names = {name_of(each) for each in fields(kind)}  # type: ignore[arg-type]
            if own := {key: left.pop(key) for key in [*left] if key in names}:
                found[next(iter(own))] = built(kind, own)
    if left:
        raise ValueError(f"a report of tlm {verb} has no part {next(iter(left))!r}")
    return [found[key] for key in data if key in found]


def _value(kind: Any, value: Any, path: str) -> Any:
    if kind in (Any, object):
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        several = isinstance(value, list | tuple)
        held = [each for each in inner if each is not NoneType]
        fits = (each for each in held if (get_origin(each) is tuple) == several)
        return _value(next(fits, held[0]), value, path)
    if kind is Document:  # a report in a report
        _check(value, Mapping, kind, path)
        verb = str(value.get("verb"))
        return Document(verb, parts_of(verb, value))
    if is_dataclass(kind):
        return _dataclass(kind, value, path)
    if origin is tuple:
        _check(value, list | tuple, kind, path)
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise ValueError(f"{path} has {len(value)} entries, not {len(inner)}")
        each = inner if inner[-1] is not Ellipsis else inner[:1] * len(value)
        pairs = enumerate(zip(each, value, strict=True))
        return tuple(_value(k, v, f"{path}.{i}") for i, (k, v) in pairs)
    if origin is not None:  # a mapping
        _check(value, Mapping, kind, path)
        return {str(k): _value(inner[1], v, f"{path}.{k}") for k, v in value.items()}
    if kind is float and value is None:
        return nan  # which JSON cannot write
    _check(value, int | float if kind is float else kind, kind, path)
    return value


def _dataclass(kind: Any, value: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    _check(value, Mapping, kind, path)
    left, made, spread = dict(value), {}, None
    for each in fields(kind):
        name = name_of(each)
        here = f"{path}.{name}" if path else name
        if each.metadata["spread"]:
            spread = each
        elif name in left:
            made[each.name] = _value(each.type, left.pop(name), here)
        elif each.default is MISSING:
            raise ValueError(f"{path or kind.__name__} has no field {name!r}")
    if spread is not None:
        made[spread.name] = _value(spread.type, left, path)
    elif left:
        raise ValueError(f"{path or kind.__name__} cannot have a field {next(iter(left))!r}")
    return kind(**made)


def _check(value: Any, wanted: Any, kind: Any, path: str) -> None:
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        name = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ValueError(f"{path or 'a part'} is {type(value).__name__}, and should be {name}")
