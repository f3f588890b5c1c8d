"""The part `evaluations` of a report: figures that `tlm evaluate --out` has added to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tlmtool.report.figures import View, figure, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.evaluation import Baseline, Scored
from tlmtool.tasks.metrics import digits


@dataclass(frozen=True, kw_only=True)
class Added:
    """An evaluation of the checkpoint, after it was written."""

    task: str = entry("the task")
    data: str = entry("where the data comes from")
    metric: str = entry("the metric of the score")
    better: str = entry("whether `higher` or `lower` is better")
    what: str = entry("what the metric is, in words")
    model: Scored = entry("the checkpoint, under the name that it was evaluated by, and its score")
    baseline: Baseline | None = entry("the model to compare with", optional=True)
    facts: dict[str, str] = entry("what else was found, in words")
    warnings: tuple[str, ...] = entry("the warnings of the evaluation")
    seed: int = entry("seed of everything random")
    versions: dict[str, str] = entry("version of tlm, of Python and of each library")
    recipe: dict[str, Any] = entry("the resolved recipe of the evaluation")

    def row(self) -> list[str]:
        """A row of the table of evaluations."""
        apart = ""
        if self.baseline is not None:
            unit = " nats" if self.baseline.ratio is not None else ""
            apart = f"{self.baseline.difference:+.4f}{unit}"
        score = figure(self.model.score, digits(self.metric))
        name = f"{self.task} of {short(self.data)}"
        return [name, words(self.metric), score, apart, f"{self.model.n:,}"]

    def note(self) -> str:
        """What the row measured, and how."""
        told = [f"{self.task} of {self.data}: {self.what}, {self.better} is better"]
        return "; ".join([*told, *(f"{label}: {text}" for label, text in self.facts.items())])


@dataclass(frozen=True, kw_only=True)
class Evaluations(Part):
    """The evaluations that `tlm evaluate --out` has added, one for each task and its data."""

    verbs: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("compress", "quantize", "merge", "overparam", "finetune"), "later"
    )

    evaluations: tuple[Added, ...] = entry("the evaluations, in the order in which they were made")

    def views(self, report: Document, full: bool) -> list[View]:
        header = ["", "metric", "score", "difference", "examples"]
        notes = "\n".join(each.note() for each in self.evaluations)
        return [View("evaluations", header, [each.row() for each in self.evaluations], notes)]


def short(data: str) -> str:
    """The last part of a path, or the whole name of a data set of the Hub."""
    return Path(data).name if Path(data).exists() or data.count("/") != 1 else data
