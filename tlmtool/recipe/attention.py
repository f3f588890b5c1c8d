"""The schema of tensor attention: which kernel takes the place of softmax attention, and where.

The kernels' own choices are read from their files, where `choice` declares them, without importing
torch. Adding a kernel needs no edit here.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tlmtool.recipe.registries import registered
from tlmtool.recipe.setting import setting, settings_of

ROOM = Path(__file__).parent.parent / "attention"
BUILD = "compress finetune"  # the verbs that put kernels into a model
CHOICE = f"{BUILD} profile"  # and the one that measures them alone
KINDS = {"bool": bool, "float": float, "int": int, "str": str}  # types that a choice may have
Section = TypeVar("Section")


class Choice(NamedTuple):
    """A field that a kernel declares with `choice`."""

    kernel: str
    name: str
    kind: Any
    default: Any
    help: str
    metavar: str
    flag: str
    rules: dict[str, Any]


@lru_cache
def attentions() -> tuple[str, ...]:
    """The names of all kernels, read off the folder without importing it."""
    return tuple(registered("attention"))


def choices_of(kernel: str) -> Iterator[Choice]:
    """What the file of a kernel declares, in its order.

    Raises ValueError for a declaration that cannot be read without running the file.
    """
    file = ROOM / f"{kernel}.py"
    classes = [n for n in ast.parse(file.read_text("utf-8")).body if isinstance(n, ast.ClassDef)]
    for node in (statement for each in classes for statement in each.body):
        call = node.value if isinstance(node, ast.AnnAssign) else None
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "choice":
            continue
        assert isinstance(node, ast.AnnAssign)
        name, kind = ast.unparse(node.target), ast.unparse(node.annotation)
        try:
            given = dict(zip(("default", "help", "metavar", "flag"), call.args, strict=False))
            given |= {str(each.arg): each.value for each in call.keywords}
            read = {key: ast.literal_eval(value) for key, value in given.items()}
            yield Choice(
                kernel,
                name,
                KINDS[kind.removesuffix(" | None")],
                read.pop("default"),
                read.pop("help"),
                read.pop("metavar"),
                read.pop("flag", f"attention-{name.replace('_', '-')}"),
                read,
            )
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{file.name}: {name} must be a bool, float, int or str, with a default, a help "
                f"text and a metavar, all of them literals ({error})"
            ) from None


def _settings() -> Iterator[tuple[str, Any, Any]]:
    """(name, type, field) of each choice. Kernels may share a name: the rules that all of them have
    hold, and each kernel checks its own."""
    held: dict[str, list[Choice]] = {}
    for choice in (choice for kernel in attentions() for choice in choices_of(kernel)):
        held.setdefault(choice.name, []).append(choice)
    for name, shared in held.items():
        first, rules = shared[0], dict[str, Any]()
        told = [f"{each.kernel}: {each.help}{_by_default(each.default)}" for each in shared]
        if all("choices" in each.rules for each in shared):
            options = (option for each in shared for option in each.rules["choices"])
            rules["choices"] = tuple(dict.fromkeys(options))
        if all("ge" in each.rules for each in shared):
            rules["ge"] = min(each.rules["ge"] for each in shared)
        made = setting(None, CHOICE, "; ".join(told), first.metavar, first.flag, **rules)
        yield name, first.kind | None, made


def _by_default(value: Any) -> str:
    return "" if value is None else f" (default: {value})"


def with_choices(section: type[Section]) -> type[Section]:
    """The section with a field for each choice of any kernel; None leaves it to the kernel."""
    found = list(_settings())
    if taken := section.__annotations__.keys() & {name for name, _, _ in found}:
        raise ValueError(f"a kernel cannot have a choice {taken.pop()!r}: the recipe uses that key")
    made = make_dataclass(section.__name__, found, bases=(section,), frozen=True)
    made.__module__, made.__doc__ = section.__module__, section.__doc__
    return made


@with_choices
@dataclass(frozen=True)
class Attending:
    """A kernel, the layers that get it, and its choices. One that is not given is the kernel's own
    default."""

    kind: str | None = setting(
        None,
        BUILD,
        f"Replace softmax attention by a kernel: {' or '.join(attentions())}",
        "NAME",
        "attention",
        choices=attentions,
    )
    layers: str | None = setting(
        None,
        BUILD,
        "Transformer layers whose attention --attention replaces, such as 3-5 or 0,2,4; of one "
        "side as encoder or decoder:0-1",
        "LAYERS",
        otherwise="all",
        pattern=r"^((encoder|decoder)|((encoder|decoder):)?\d+(-\d+)?(,\d+(-\d+)?)*)$",
        what="layers such as 3-5 or 0,2,4, of both sides or as encoder:0-1",
    )


def flag(key: str) -> str:
    """The flag that gives a choice: '--w-o' of w_o; its key for `--set` where it has no flag."""
    found = (f"--{each.flag}" for each in settings_of(Attending) if each.path == key)
    return next(found, f"attention.{key}")
