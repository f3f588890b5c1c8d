"""The part `energy` of a report: what a run took from the socket."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.layout import Part, entry


@dataclass(frozen=True, kw_only=True)
class Energy(Part):
    """The energy of a run."""

    key: ClassVar[str] = "energy"
    verbs: ClassVar = {"merge": ""}

    joules: float = entry("energy of the whole run", "J")
    meter: str | None = entry("what measured it", optional=True)
