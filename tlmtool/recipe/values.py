"""Checks one value of a recipe by its rules in the schema; every refusal is one sentence."""

import re
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

from tlmtool.failure import Usage, show
from tlmtool.files.numbers import number
from tlmtool.recipe.setting import settings_of

WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a line of text"}
BOUNDS = {"ge": "of at least {}", "gt": "above {}", "lt": "below {}", "le": "at most {}"}
LARGEST_INTEGER = 2**63 - 1  # what torch can hold
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def convert(kind: Any, rules: dict[str, Any], name: str, raw: Any) -> Any:
    """`raw`, the text of a flag or a YAML value, as the type `kind` of a field of the schema.

    Raises Usage, which calls the value `name`.
    """
    if type(None) in get_args(kind):
        if raw is None:
            return None
        kind, *several = (each for each in get_args(kind) if each is not type(None))
        if several and (isinstance(raw, list | tuple) or (isinstance(raw, str) and "," in raw)):
            found = dict.fromkeys(convert(several[0], rules, name, raw))
            return tuple(found) if len(found) > 1 else next(iter(found))
    if get_origin(kind) is not tuple:
        return _scalar(kind, rules, name, raw)
    if raw is None and "optional" in rules:
        return ()
    element = get_args(kind)[0]
    if is_dataclass(element):
        return _sections(element, name, raw)
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",")]
    many = raw if isinstance(raw, list | tuple) else [raw]
    if not many and "optional" not in rules:
        raise Usage(f"{name} must name at least one")
    return tuple(
        _scalar(element, rules, name if len(many) == 1 else f"each of {name}", part)
        for part in many
    )


def _sections(schema: Any, name: str, raw: Any) -> tuple[Any, ...]:
    """A list of small sections, such as compression.overrides."""
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise Usage(f"{name} must be a list of sections, got {show(raw)}")
    known = {setting.path: setting for setting in settings_of(schema)}
    made = []
    for index, given in enumerate(raw):
        here = f"{name}[{index}]"
        for key in given:
            if key not in known:
                raise Usage(f"unknown key {show(key)} in {here}; known are {', '.join(known)}")
        fields = {
            key: convert(known[key].kind, known[key].rules, f"{here}.{key}", value)
            for key, value in given.items()
        }
        if not fields.get("sites"):
            raise Usage(f"{here} needs sites, a pattern of the names of its layers")
        made.append(schema(**fields))
    return tuple(made)


@lru_cache
def _adapter(kind: type, bounds: tuple[tuple[str, Any], ...]) -> Any:
    from pydantic import Field, TypeAdapter

    constrained: Any = Annotated[kind, Field(**dict(bounds))]
    return TypeAdapter(constrained)


def _scalar(kind: type, rules: dict[str, Any], name: str, raw: Any) -> Any:
    """An int, float, bool or str within its bounds, pattern or choices."""
    choices = rules.get("choices", ())
    choices = list(choices() if callable(choices) else choices)
    try:
        value = _typed(kind, rules, raw)
    except ValueError:  # pydantic's own, too
        pass
    else:
        if kind is int and value > LARGEST_INTEGER:
            raise Usage(f"{name} is too large: at most 2**63 - 1 is possible")
        prefix = rules.get("prefix")
        if not choices or value in choices or (prefix and str(value).startswith(prefix)):
            return value
    if isinstance(raw, str) and (instead := rules.get("instead", {}).get(raw.lower())):
        raise Usage(f"{name} {raw}: {instead}")
    choices = [*map(str, choices), *([f"{rules['prefix']}NAME"] if "prefix" in rules else [])]
    near = get_close_matches(raw, choices, 1, 0.5) if isinstance(raw, str) else []
    hint = f"; did you mean {near[0]}?" if near else ""
    raise Usage(f"{name} must be {_rule(kind, rules, choices)}, got {show(raw)}{hint}")


def _typed(kind: type, rules: dict[str, Any], raw: Any) -> Any:
    """The value that `raw` is; raises ValueError for another type, or one that breaks a bound."""
    if isinstance(raw, bool) and kind is not bool:
        raise ValueError("true and false are no numbers and no text")
    if isinstance(raw, str) and UNPRINTABLE.search(raw):
        raise ValueError("text must be printable")
    bounds = {key: rules[key] for key in (*BOUNDS, "pattern") if key in rules}
    if kind is float:
        bounds["allow_inf_nan"] = False
    elif kind is str:
        bounds["min_length"] = 1
    given = number(raw.strip(" ")) if isinstance(raw, str) and kind in (int, float) else raw
    return _adapter(kind, tuple(bounds.items())).validate_python(given)


def _rule(kind: type, rules: dict[str, Any], choices: list[str]) -> str:
    """What a value must be, in words."""
    if choices:
        return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    within = [words.format(rules[key]) for key, words in BOUNDS.items() if key in rules]
    return rules.get("what") or f"{WORDS[kind]} {' and '.join(within)}".strip()
