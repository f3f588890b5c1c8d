"""Formats that other programs open. The folder is the registry: one file, one format."""

from importlib import import_module
from pkgutil import iter_modules

from tlmtool.exporting.base import Target

NAMES = tuple(m.name for m in iter_modules(__path__) if m.name[0] != "_" and m.name != "base")


def named(name: str) -> Target:
    """The target in `<name>.py`.

    Raises ValueError for a name that has no file, and TypeError for a file that does not define
    exactly one public subclass of `Target`.
    """
    if name not in NAMES:
        raise ValueError(f"unknown format {name!r}; known: {', '.join(NAMES)}")
    module = import_module(f"{__name__}.{name}")
    found: list[type[Target]] = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Target)
        and each.__module__ == module.__name__
        and each.__name__[0] != "_"
    ]
    if len(found) != 1:
        raise TypeError(f"{name}.py defines {len(found)} public subclasses of Target: define one")
    return found[0]()
