"""The part `points` of a report of run: the result of each point of a matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, words
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a matrix: the values of its keys, and what came of it."""

    name: str = entry("its name, which is that of its folder")
    values: Mapping[str, str] = entry("the value of each key of the matrix that it depends on")
    out: str = entry("its folder")
    failed: str | None = entry("why it has no result, or what check failed", optional=True)
    earlier: bool | None = entry(
        "true where it failed, and its folder holds the result of an earlier run", optional=True
    )
    parameters: int | None = entry("parameters of its last model", "parameters", optional=True)
    bytes: int | None = entry("of the files of weights of that model", "bytes", optional=True)
    metric: str | None = entry("what its last score is", optional=True)
    score: float | None = entry("its last score", optional=True)
    seconds: float | None = entry("time of its stages", "s", optional=True)


@dataclass(frozen=True, kw_only=True)
class Points(Part):
    """The points of a matrix, in the order in which they were run."""

    verbs: ClassVar = {"run": ""}

    points: tuple[Point, ...] = entry("the points")

    def views(self, report: Document, full: bool) -> list[View]:
        metrics = dict.fromkeys(each.metric for each in self.points if each.metric)
        header = ["", "parameters", "bytes", *map(words, metrics), "time"]
        return [View("points", header, [self._row(each, [*metrics]) for each in self.points])]

    def _row(self, each: Point, metrics: list[str]) -> list[str]:
        time = "failed" if each.failed else ""
        scores = [figure(each.score, 4) if each.metric == name else "" for name in metrics]
        sizes = [human(each.parameters), human(each.bytes, "B" if each.bytes else "")]
        return [
            each.name,
            *sizes,
            *scores,
            time or ("" if each.seconds is None else f"{each.seconds:.0f} s"),
        ]

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        return [("failed", text) for text in self.failures()]

    def failures(self) -> list[str]:
        """A sentence on each point that failed."""
        more = "; its folder holds the result of an earlier run"
        failed = [each for each in self.points if each.failed]
        return [f"{p.name}: {p.failed}{more if p.earlier else ''}" for p in failed]
