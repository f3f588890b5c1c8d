"""The part `score` of a report: how good a model is at the task of `--data`, before and after."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, figure, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Examples
from tlmtool.tasks.metrics import digits
from tlmtool.tasks.table import LABELLED, SIMILARITY, TASKS

# What `--fail-if` may call the score of any of these tasks; the data say which task it is.
NAMES = ("score", *dict.fromkeys(n for t in (SIMILARITY, *LABELLED) for n in TASKS[t].names))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A metric before and after."""

    before: float = entry("of the model before")
    after: float = entry("of the model after")


@dataclass(frozen=True, kw_only=True)
class Score(Part):
    """The score of the model on the rows of `--data`, before and after."""

    key: ClassVar[str] = "score"
    verbs: ClassVar = {"compress": "written scored"}

    task: str = entry("the task")
    metric: str = entry("the metric of the score")
    better: str = entry("whether `higher` or `lower` is better")
    what: str = entry("what the metric is, in words")
    data: str = entry("where the rows come from")
    n: int = entry("number of rows")
    before: float = entry("score of the model before; of several metrics, their mean")
    after: float = entry("score of the model after")
    difference: float = entry("after - before")
    interval: tuple[float, float] | None = entry("paired interval of the difference, or null")
    level: float = entry("how often such an interval holds the true difference", "share")
    method: str = entry("how the interval was made, or why there is none")
    resamples: int | None = entry("how often the rows were drawn anew", optional=True)
    metrics: dict[str, Change] | None = entry("each metric, where there are several", optional=True)
    examples: Examples | None = entry("what the score after was measured on", optional=True)

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        row = TASKS.get(asked.values.get("recovery.task") or "")
        return dict.fromkeys(("score", *row.names) if row else NAMES, "score.after")

    def named(self) -> dict[str, str]:
        row = TASKS.get(self.task)
        return dict.fromkeys(("score", *(row.names if row else ())), "score.after")

    def headline(self) -> tuple[str, float]:
        return self.metric, self.after

    def views(self, report: Document, full: bool) -> list[View]:
        ends = {self.metric: Change(before=self.before, after=self.after)} | (self.metrics or {})
        rows = []
        for name, each in ends.items():
            cells = [figure(value, digits(name)) for value in (each.before, each.after)]
            rows.append([words(name), *cells, f"{each.after - each.before:+.4f}"])
        interval = f"no interval ({self.method.removeprefix('none: ')})"
        if self.interval is not None:
            low, high = self.interval
            interval = f"{100 * self.level:g} % interval [{low:+.4f}, {high:+.4f}] ({self.method})"
        note = (
            f"{self.metric} of {self.n:,} rows of {self.data}: {self.what}, {self.better} is "
            f"better\nafter - before: {self.difference:+.4f}, {interval}"
        )
        return [View(f"task {self.task}", ["", "before", "after", "after - before"], rows, note)]
