"""The parts `forecast` and `range` of a report: what a run takes, and what its budget leaves
open."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, share
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.costs import HEADER
from tlmtool.report.parts.sites import MANY_SITES


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """The time of one stage."""

    seconds: float = entry("as predicted", "s")
    actual: float | None = entry("as it was", "s", when="written")


@dataclass(frozen=True, kw_only=True)
class Forecast(Part):
    """What the run takes, as predicted before its work began, and as it was."""

    key: ClassVar[str] = "forecast"
    verbs: ClassVar = {"compress": "timed"}

    seconds: float = entry(
        "time of the work, predicted from its counted operations and a short measurement of this "
        "machine",
        "s",
    )
    actual_seconds: float | None = entry("time that it took", "s", when="written")
    memory_bytes: int = entry(
        "most resident memory of the process, as predicted; on a GPU, the memory taken there",
        "bytes",
    )
    stages: dict[str, StageTime] = entry("time of each stage, in order")

    def views(self, report: Document, full: bool) -> list[View]:
        if self.actual_seconds is not None and not full:
            return []
        rows = [
            [name, figure(each.seconds, 1), figure(each.actual, 1)]
            for name, each in self.stages.items()
        ]
        rows.append(["all", figure(self.seconds, 1), figure(self.actual_seconds, 1)])
        note = f"on this machine, as it is now; memory: about {human(self.memory_bytes, 'B')}"
        return [View("seconds", ["", "forecast", "actual"], rows, note)]

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        if self.actual_seconds is None:
            return []
        told = f"{self.seconds:.0f} s and {human(self.memory_bytes, 'B')}"
        return [("forecast", f"{told}; it took {self.actual_seconds:.0f} s")]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A quantity after the change that a dry run cannot tell."""

    before: int = entry("before the change")
    least: int | None = entry("the least after it; absent where it is not known", optional=True)
    most: int = entry("the most after it")


@dataclass(frozen=True, kw_only=True)
class SiteRange:
    """What a site may get."""

    site: str = entry("its path in the model")
    role: str = entry("what it is for, such as query or up")
    shape: tuple[int, int] = entry("out and in features of the weight")
    decomposition: str = entry("name of the decomposition whose rank this is")
    least_rank: int = entry("its least rank")
    most_rank: int | None = entry("its highest rank; absent where it may stay dense", optional=True)
    least: int = entry("its fewest parameters", "parameters")
    most: int = entry("its most parameters", "parameters")


@dataclass(frozen=True, kw_only=True)
class Range(Part):
    """What `--keep` and `--energy` leave open until the run has measured the model."""

    key: ClassVar[str] = "range"
    verbs: ClassVar = {"compress": "ranged"}

    note: str = entry("what is certain, and what the other figures assume")
    parameters: Span = entry("parameters of the model", "parameters")
    flops: Span | None = entry("of a forward pass", "FLOPs", when="unknown")
    weight_bytes: Span | None = entry("of the weights in memory", "bytes", when="unknown")
    sites: tuple[SiteRange, ...] = entry("the chosen sites")

    def views(self, report: Document, full: bool) -> list[View]:
        found = [_row("parameters", self.parameters, "", self.note)]
        if self.flops and self.weight_bytes:
            found += [
                _row("FLOPs", self.flops, "FLOPs"),
                _row("bytes in memory", self.weight_bytes, "B"),
            ]
        return [*found, _ranks(self.sites, full)]


def _row(label: str, span: Span, unit: str, note: str = "") -> View:
    """A row of the table of costs."""
    most, shares = human(span.most, unit), share(span.most, span.before)
    if span.least is None:
        row = [f"{label}, at most", human(span.before, unit), most, shares]
    else:
        least = human(span.least, unit), share(span.least, span.before)
        row = [label, human(span.before, unit), f"{least[0]} to {most}", f"{least[1]} to {shares}"]
    return View("cost", HEADER, [row], note, joins="cost")


def _ranks(sites: tuple[SiteRange, ...], full: bool) -> View:
    groups: dict[str, list[SiteRange]] = {}
    for each in sites:
        single = full or len(sites) <= MANY_SITES
        groups.setdefault(each.site if single else each.role, []).append(each)
    rows = [
        [name, str(len(group)), *_ends(group), *_sizes(group)] for name, group in groups.items()
    ]
    names = [*dict.fromkeys(each.decomposition for each in sites)]
    note = f"ranks are those of {', '.join(names)}"
    note += ": neurons that an MLP keeps" if names == ["narrow"] else ""
    header = ["", "sites", "least rank", "highest", "parameters", "at most"]
    return View("what the run may choose", header, rows, note)


def _ends(group: Iterable[SiteRange]) -> list[str]:
    most = [each.most_rank for each in group]
    known = [rank for rank in most if rank is not None]
    highest = "dense" if None in most else str(max(known))
    return [str(min(each.least_rank for each in group)), highest]


def _sizes(group: Iterable[SiteRange]) -> list[str]:
    sizes = [(each.least, each.most) for each in group]
    return [human(sum(low for low, _ in sizes)), human(sum(high for _, high in sizes))]
