"""Ways to hold a weight as factors. The folder is the registry: one file, one decomposition."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tlmtool.decompositions.base import Decomposition

NAMES = tuple(m.name for m in iter_modules(__path__) if m.name[0] != "_" and m.name != "base")


def named(name: str) -> type[Decomposition]:
    """The class in `<name>.py`.

    Raises ValueError for a name that has no file, and TypeError for a file that does not define
    exactly one public subclass of `Decomposition`.
    """
    if name not in NAMES:
        raise ValueError(f"unknown decomposition {name!r}; known: {', '.join(NAMES)}")
    module = import_module(f"{__name__}.{name}")
    found: list[type[Decomposition]] = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Decomposition)
        and each.__module__ == module.__name__
        and each.__name__[0] != "_"
    ]
    if len(found) != 1:
        raise TypeError(
            f"{name}.py defines {len(found)} public subclasses of Decomposition: define one"
        )
    return found[0]


def candidates(weighed: bool) -> tuple[str, ...]:
    """The names that `--method auto` chooses from, those with the fewest fields first.

    `weighed`: only those whose error can be weighed by calibration text.
    """
    found = [n for n in NAMES if named(n).automatic and (named(n).takes_metric or not weighed)]
    return tuple(sorted(found, key=lambda n: len(named(n).__dataclass_fields__)))


def from_dict(fields: dict[str, Any]) -> Decomposition:
    """The inverse of `Decomposition.to_dict`."""
    fields = dict(fields)
    cls = named(fields.pop("name"))
    return cls(**{k: _frozen(v) for k, v in fields.items()})


def _frozen(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, as tuples again."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
