"""One field of the schema of a run: who reads it, its flag, its help and its rules."""

from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any, NamedTuple


def setting(
    default: Any, verbs: str, help: str = "", metavar: str = "", flag: str | None = "", **rules: Any
) -> Any:
    """A field: which verbs read it, its flag ("" its own name, None no flag), and its rules.

    Rules: `choices` (names, or a function that gives them), the bounds `ge gt lt le`, or a regular
    expression `pattern`; `what` says in words what a pattern asks for; `optional`: a list may
    be empty.
    """
    metadata = {"verbs": verbs.split(), "help": help, "metavar": metavar, "flag": flag}
    return field(default=default, metadata={**metadata, "rules": rules})


class Setting(NamedTuple):
    """A field of the schema. `path`: dotted key; `flag`: without dashes, None where none."""

    path: str
    kind: Any
    default: Any
    verbs: list[str]
    help: str
    metavar: str
    flag: str | None
    rules: dict[str, Any]


def settings_of(schema: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass and of its sections."""
    for entry in fields(schema):
        if is_dataclass(entry.type):
            yield from settings_of(entry.type, f"{entry.name}.")
        elif entry.metadata:
            known = dict(entry.metadata)
            if known["flag"] == "":
                known["flag"] = entry.name.replace("_", "-")
            yield Setting(prefix + entry.name, entry.type, entry.default, **known)
