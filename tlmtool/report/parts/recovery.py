"""The part `recovery` of a report: what training a compressed model on the dense one gave back."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Recovery(Part):
    """The training of `--recover`, in which the compressed model learns from the dense one."""

    key: ClassVar[str] = "recovery"
    verbs: ClassVar = {"compress": "written recovers"}

    metric: str = entry("the metric of the three scores")
    better: str = entry("whether `higher` or `lower` is better")
    dense: float = entry("score of the dense model")
    compressed: float = entry("score of the compressed model")
    recovered: float = entry("score of the compressed model after the training")
    steps: int = entry("steps of the training")
    trained: str = entry("what was trained: `factors` or `all` weights")
    lr: float = entry("learning rate")
    sentences: int = entry("number of sentences that it was trained on")
    scored_on: str = entry("what the scores were measured on")
    data: str = entry("where the sentences come from")

    def headline(self) -> tuple[str, float]:
        return self.metric, self.recovered

    def views(self, report: Document, full: bool) -> list[View]:
        kinds = ("dense", "compressed", "recovered")
        what = "all weights" if self.trained == "all" else "factors only"
        rows = [[kind, figure(getattr(self, kind), 4)] for kind in kinds]
        note = (
            f"{self.steps:,} steps of distilling the dense model on {self.sentences:,} "
            f"sentences of {self.data}, {what}; {self.metric} of "
            f"{self.scored_on}, {self.better} is better"
        )
        return [View("recovery", ["", self.metric], rows, note)]
