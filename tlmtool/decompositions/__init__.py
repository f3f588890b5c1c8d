"""Ways to hold a weight as factors. The folder is the registry: one file, one decomposition."""

from importlib import import_module
from pkgutil import iter_modules

from tlmtool.decompositions.base import Decomposition

NAMES = tuple(m.name for m in iter_modules(__path__) if m.name[0] != "_" and m.name != "base")


def named(name: str) -> type[Decomposition]:
    """The class in `<name>.py`; an unknown name raises ValueError with the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown decomposition {name!r}; known: {', '.join(NAMES)}")
    module = import_module(f"{__name__}.{name}")
    return next(
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Decomposition) and c.__module__ == module.__name__
    )


def from_dict(fields: dict) -> Decomposition:
    """The inverse of `Decomposition.to_dict`."""
    fields = dict(fields)
    cls = named(fields.pop("name"))
    return cls(**{k: _frozen(v) for k, v in fields.items()})


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
