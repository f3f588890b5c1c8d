"""Ways to mix tokens in place of softmax attention. The folder is the registry: one file, one."""

from importlib import import_module
from pkgutil import iter_modules

from tlmtool.attention.base import Attention

NAMES = tuple(m.name for m in iter_modules(__path__) if m.name[0] != "_" and m.name != "base")


def named(name: str) -> type[Attention]:
    """The class in `<name>.py`; an unknown name raises ValueError with the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown attention {name!r}; known: {', '.join(NAMES)}")
    module = import_module(f"{__name__}.{name}")
    return next(
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Attention) and c.__module__ == module.__name__
    )


def from_dict(fields: dict) -> Attention:
    """The inverse of `Attention.to_dict`."""
    fields = dict(fields)
    return named(fields.pop("name"))(**fields)
