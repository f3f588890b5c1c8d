"""Ways to mix tokens in place of softmax attention. The folder is the registry: one file, one."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tlmtool.attention.base import Attention

NAMES = tuple(m.name for m in iter_modules(__path__) if m.name[0] != "_" and m.name != "base")


def named(name: str) -> type[Attention]:
    """The class in `<name>.py`.

    Raises ValueError for a name that has no file, and TypeError for a file that does not define
    exactly one public subclass of `Attention`.
    """
    if name not in NAMES:
        raise ValueError(f"unknown attention {name!r}; known: {', '.join(NAMES)}")
    module = import_module(f"{__name__}.{name}")
    found: list[type[Attention]] = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Attention)
        and each.__module__ == module.__name__
        and each.__name__[0] != "_"
    ]
    if len(found) != 1:
        raise TypeError(
            f"{name}.py defines {len(found)} public subclasses of Attention: define one"
        )
    return found[0]


def from_dict(fields: dict[str, Any]) -> Attention:
    """The inverse of `Attention.to_dict`."""
    fields = dict(fields)
    return named(fields.pop("name"))(**fields)
