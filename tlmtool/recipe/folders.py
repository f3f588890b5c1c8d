"""Folders of data that a recipe names as `${NAME}`, and where they lie on this machine."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from tlmtool.failure import NotLoadable, Usage, show
from tlmtool.recipe.schema import Recipe, settings

NAME = re.compile(r"\$\{(\w+)\}", re.ASCII)  # in a value: ${COLA}, or ${WIKITEXT2}/train.txt
GIVEN = re.compile(r"([A-Z][A-Z0-9_]*)=(.+)", re.ASCII)  # what --data and --set give: COLA=DIR
PARENT = "TLM_DATA"  # the variable of the environment that names a folder of such folders
PAGE = "docs/data.md"


class Layout(NamedTuple):
    """The usual name of a folder of data, and what tlm reads in it, in words."""

    folder: str
    files: str


GLUE = "train.tsv and dev.tsv, as GLUE has them"
LINES = "train.txt and valid.txt, plain text"
LAYOUTS = {
    "COLA": Layout("cola", GLUE),
    "RTE": Layout("rte", GLUE),
    "STSB": Layout("stsb", GLUE),
    "MRPC": Layout("mrpc", GLUE),
    "PTB": Layout("ptb", LINES),
    "WIKITEXT2": Layout("wikitext-2", LINES),
    "WIKITEXT103": Layout("wikitext-103", LINES),
    "ONE_BILLION": Layout("one-billion", LINES),
    "MULTI30K": Layout("multi30k", "train.en, train.de, val.en and val.de, one sentence a line"),
    "WMT": Layout("wmt", "train.en, train.de, valid.en and valid.de, one sentence a line"),
}


def mentioned(tree: Any) -> set[str]:
    """The names in a recipe, as YAML gives it. What several aliases share is read once."""
    inner, seen, names = [tree], set[int](), set[str]()
    while inner:
        each = inner.pop()
        if isinstance(each, str):
            names.update(NAME.findall(each))
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            inner += each.values() if isinstance(each, dict) else each
    return names


@dataclass(frozen=True)
class Folders:
    """Where the folders lie: `named` {name: folder}, and `parent`, a folder with those others."""

    named: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None

    @classmethod
    def of(cls, given: Iterable[str], names: set[str], where: str) -> "Folders":
        """From what is given as `NAME=DIR` or as the parent. Raises Usage for a name that is not
        among the `names` of the recipe, or a second parent, and NotLoadable for no folder."""
        named, parents = dict[str, str](), list[str]()
        for text in given:
            if not (match := GIVEN.fullmatch(text)):
                parents.append(_there(text, f"--data {text}"))
                continue
            name, place = match.groups()
            if name not in names:
                known = ", ".join(f"${{{each}}}" for each in sorted(names)) or "no folder"
                raise Usage(
                    f"{where} has no ${{{name}}} to fill with {show(place)}: it has {known}"
                )
            named[name] = _there(place, f"the folder {name}={place} ({_needed(name)})")
        if len(parents) > 1:
            raise Usage(f"--data gives two folders for all data, {' and '.join(parents)}: give one")
        return cls(named, parents[0] if parents else os.environ.get(PARENT) or None)

    def filled(self, value: Any) -> Any:
        """A value with each `${NAME}` replaced by its folder. A name without one stays."""
        if not isinstance(value, str):
            return value
        return NAME.sub(lambda found: self._place(found[1]) or found[0], value)

    def _place(self, name: str) -> str | None:
        """The folder of a name: as given, or that of the parent whose letters and digits it is."""
        if name in self.named or self.parent is None:
            return self.named.get(name)
        try:
            inner = sorted(each for each in Path(self.parent).expanduser().iterdir())
        except OSError:
            return None
        found = [each for each in inner if each.is_dir() and _bare(each.name) == _bare(name)]
        if len(found) > 1:
            raise Usage(
                f"{self.parent} has {found[0].name} and {found[1].name} for ${{{name}}}: give "
                f"--data {name}=DIR"
            )
        return str(found[0]) if found else None


def taken(sets: Iterable[str], names: set[str]) -> tuple[list[str], list[str]]:
    """(those of `--set` that fill one of the names, the others)."""
    ours, others = list[str](), list[str]()
    for text in sets:
        match = GIVEN.fullmatch(text)
        (ours if match and match[1] in names else others).append(text)
    return ours, others


def check_filled(recipe: Recipe) -> None:
    """Raises NotLoadable where a setting still names a folder that nobody has given."""
    for path, setting in settings(recipe.verb).items():
        value = reduce(getattr, path.split("."), recipe)
        if not setting.reads or not isinstance(value, str) or not (found := NAME.search(value)):
            continue
        name = found[1]
        asked = f"recipe {recipe.file}" if recipe.file else recipe.verb
        raise NotLoadable(
            f"{asked} needs the folder {found[0]} ({_needed(name)}): give {_how(recipe, name)}; "
            f"{PAGE} tells where the data come from"
        )


def _how(recipe: Recipe, name: str) -> str:
    """The flag that gives a folder to a recipe of one verb, or of stages."""
    flags = {setting.flag for setting in settings(recipe.verb).values()}
    return f"{'--data' if 'data' in flags else '--set'} {name}=DIR"


def _needed(name: str) -> str:
    """What must be in a folder, in words."""
    return f"with {LAYOUTS[name].files}" if name in LAYOUTS else "of data"


def _there(place: str, what: str) -> str:
    """The path; raises NotLoadable, which calls it `what`, where nothing is there."""
    if os.path.lexists(os.path.expanduser(place)):
        return place
    raise NotLoadable(f"{what} does not exist; {PAGE} tells where the data come from")


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


NONE = Folders()  # where none is given: every name stays
