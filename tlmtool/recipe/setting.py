"""One field of the schema of a run: who reads it, its flag, its help and its rules."""

from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple

GENERAL = "General"  # the part of the help with what every verb has

# What a setting names: a model, files of one, a checkpoint that tlm wrote, or data. "model" and
# "checkpoint" may be `@stage` in a pipeline.
Reads = Literal["", "model", "model files", "checkpoint", "data"]


def setting(
    default: Any,
    verbs: str,
    help: str = "",
    metavar: str = "",
    flag: str | None = "",
    *,
    panel: str = "",
    otherwise: str | dict[str, str] = "",
    reads: Reads = "",
    **rules: Any,
) -> Any:
    """A field: the verbs that read it, its flag ("" for its own name, None for no flag), its rules.

    `panel`: the part of `--help` that shows it, by default that of its section. `otherwise`: the
    default in words, perhaps one for each verb, where `default` does not say it. `reads`: what it
    names that the run reads. Rules: `choices` (names, or a function that returns them), `instead`
    (what to do for a name that is none of them), the bounds `ge gt lt le`, or a regular expression
    `pattern`, with `what` it asks for in words; `optional` lets a list be empty.
    """
    shown = {"help": help, "metavar": metavar, "flag": flag, "panel": panel}
    metadata = {"verbs": verbs.split(), **shown, "otherwise": otherwise, "reads": reads}
    return field(default=default, metadata={**metadata, "rules": rules})


def section(schema: type, title: str) -> Any:
    """A field that holds a section of settings; `title`: the part of `--help` that shows them."""
    return field(default_factory=schema, metadata={"title": title})


class Setting(NamedTuple):
    """A field of the schema. `path`: its dotted key; `flag`: without dashes, None where none."""

    path: str
    kind: Any
    default: Any
    verbs: list[str]
    help: str
    metavar: str
    flag: str | None
    panel: str
    otherwise: str | dict[str, str]
    reads: Reads
    rules: dict[str, Any]

    @property
    def name(self) -> str:
        """What a user calls it: its flag, MODEL, or the key of a setting that has no flag."""
        return f"--{self.flag}" if self.flag else self.metavar or self.path

    def help_for(self, verb: str) -> str:
        """The help text of a verb, which ends with the default."""
        words = self.otherwise if isinstance(self.otherwise, str) else self.otherwise[verb]
        if not words and self.default is not False:
            several = isinstance(self.default, tuple)
            value = ", ".join(map(str, self.default)) if several else self.default
            words = "" if value is None else str(value)
        return f"{self.help} (default: {words})" if words else self.help


def schema_in(entry: Field[Any]) -> type | None:
    """The schema of the section that a field holds; None for a field that is a setting."""
    return entry.type if isinstance(entry.type, type) and is_dataclass(entry.type) else None


def settings_of(schema: type, prefix: str = "", panel: str = GENERAL) -> Iterator[Setting]:
    """Every setting of a dataclass and of its sections, in the order of their declaration."""
    for entry in fields(schema):
        if inner := schema_in(entry):
            yield from settings_of(inner, f"{entry.name}.", entry.metadata["title"])
        elif "verbs" in entry.metadata:
            known = dict(entry.metadata)
            if known["flag"] == "":
                known["flag"] = entry.name.replace("_", "-")
            known["panel"] = known["panel"] or panel
            yield Setting(prefix + entry.name, entry.type, entry.default, **known)
