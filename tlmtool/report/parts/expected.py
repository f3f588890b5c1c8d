"""The part `costs` of a report of run: what each stage will cost, as its dry run predicts."""

from dataclasses import dataclass
from math import fsum
from typing import ClassVar

from tlmtool.report.figures import View, human
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a stage is predicted to cost."""

    name: str = entry("the point and the stage")
    verb: str = entry("its command")
    seconds: float | None = entry("time of its work on this machine", "s", optional=True)
    memory_bytes: int | None = entry("most memory that it will take", "bytes", optional=True)
    flops: int | None = entry("operations of its training", "FLOPs", optional=True)
    parameters: int | None = entry("parameters of its result", "parameters", optional=True)
    unknown: str | None = entry("why nothing is predicted", optional=True)


@dataclass(frozen=True, kw_only=True)
class Costs(Part):
    """What the stages of a file will cost, before any of them runs."""

    verbs: ClassVar = {"run": ""}

    costs: tuple[Expected, ...] = entry("what each stage is predicted to cost")

    def views(self, report: Document, full: bool) -> list[View]:
        header = ["", "verb", "seconds", "memory", "FLOPs", "parameters", "why"]
        return [View("predicted costs", header, [self._row(each) for each in self.costs])]

    def _row(self, each: Expected) -> list[str]:
        return [
            each.name,
            each.verb,
            "" if each.seconds is None else f"{each.seconds:.0f}",
            human(each.memory_bytes, "B"),
            human(each.flops, "FLOPs"),
            human(each.parameters),
            each.unknown or "",
        ]

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        known = [each for each in self.costs if not each.unknown]
        told = f"of {len(known)} of {len(self.costs)} stages; nothing was run or written"
        seconds = [each.seconds for each in known if each.seconds is not None]
        flops = [each.flops for each in known if each.flops is not None]
        sums = [f"{fsum(seconds):.0f} s"] if seconds else []
        sums += [human(sum(flops), "FLOPs of training")] if flops else []
        return [("in all", ", ".join([*sums, told]))]
