"""The layout of a report: what a part is, and a report as parts that are typed.

A part is a frozen dataclass in a file of `tlmtool/report/parts`. Each of its fields is an `entry`
with its unit and one sentence of what it is. From these the JSON, the tables, the card, the
figures of `--fail-if` and docs/report.md are made. Adding a part is adding a file there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, words

SCHEMA_VERSION = 2  # raise it when a key gets another name, place or meaning


def entry(
    what: str,
    unit: str = "",
    *,
    when: str = "",
    optional: bool | None = None,
    count: str = "",
    names: str = "",
    spread: bool = False,
) -> Any:
    """A field of a part, which holds `what`, in `unit`.

    `optional`: it is None where it does not apply, and then left out of the JSON; by default, where
    there is a `when`: the questions of `Asked` that must hold for it to be there. `count`: of a
    list, the question that says how many it has; `names`: of a mapping, the one that gives its
    keys. `spread`: its own fields or keys stand beside the others instead of below its name.
    """
    default = None if (bool(when) if optional is None else optional) else MISSING
    metadata = {"what": what, "unit": unit, "when": when, "count": count, "names": names}
    return field(default=default, metadata=metadata | {"spread": spread})


class Part:
    """A part of a report. A subclass is a frozen dataclass whose fields are entries."""

    key: ClassVar[str] = ""  # where it stands in the JSON; without one, its fields stand at the top
    verbs: ClassVar[Mapping[str, str]] = {}  # {verb whose reports may have it: questions of Asked}

    @classmethod
    def expected(cls, asked: Asked) -> bool:
        """Whether the report of such a run has this part."""
        return asked.verb in cls.verbs and asked.holds(cls.verbs[asked.verb])

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        """{short name for --fail-if: path of the figure} that such a run will have."""
        return {}

    def named(self) -> dict[str, str]:
        """{short name for --fail-if: path of the figure} that this report has."""
        return {}

    def views(self, report: "Document", full: bool) -> list[View]:
        """Its tables; `full`: every site on a row of its own.

        A part that says nothing here, nor in `facts`, is shown as a plain table of its figures.
        """
        return [] if type(self).facts is not Part.facts else [listed(self)]

    def facts(self, report: "Document", full: bool) -> list[tuple[str, str]]:
        """(label, sentence) of what belongs below the tables."""
        return []

    def headline(self) -> tuple[str, float] | None:
        """(name, value) of the one figure that sums up a stage of a pipeline."""
        return None


P = TypeVar("P", bound=Part)


class Document:
    """The parts of the report of one verb, in the order in which they are shown."""

    def __init__(self, verb: str, parts: Iterable[Part] = ()):
        self.verb, self.parts = verb, tuple(parts)

    def part(self, kind: type[P]) -> P | None:
        """The part of a kind, or None."""
        return next((part for part in self.parts if isinstance(part, kind)), None)

    @property
    def data(self) -> dict[str, Any]:
        """The report as plain values, as in its JSON."""
        found: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "verb": self.verb}
        for part in self.parts:
            found |= {part.key: plain(part)} if part.key else plain(part)
        return found


def plain(value: Any) -> Any:
    """A part, or what a field of one holds, as dicts, lists and scalars."""
    if isinstance(value, Document):
        return value.data
    if is_dataclass(value):
        found: dict[str, Any] = {}
        for each in fields(value):
            inner = getattr(value, each.name)
            if inner is None and each.default is None:
                continue
            found |= plain(inner) if each.metadata["spread"] else {name_of(each): plain(inner)}
        return found
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def name_of(each: "Field[Any]") -> str:
    """The name of a field in the JSON: `class` for class_, which Python keeps for itself."""
    return each.name.rstrip("_")


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that is no dict or list."""
    if isinstance(data, Mapping | list | tuple):
        inner = data.items() if isinstance(data, Mapping) else enumerate(data)
        for key, value in inner:
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, data


def listed(part: Part) -> View:
    """A plain table of the figures of a part, for one that has no view of its own."""
    rows = [[words(path), str(value)] for path, value in leaves(plain(part)) if value is not None]
    return View(words(part.key or type(part).__name__.lower()), ["", "value"], rows)


def kinds() -> tuple[type[Part], ...]:
    """Every part that there is, read off the files of `report/parts`."""
    found: list[type[Part]] = []
    for file in sorted((Path(__file__).parent / "parts").glob("[!_.]*.py")):
        module = import_module(f"tlmtool.report.parts.{file.stem}")
        own = (each for each in vars(module).values() if isinstance(each, type))
        found += [c for c in own if issubclass(c, Part) and c.__module__ == module.__name__]
    return tuple(found)
