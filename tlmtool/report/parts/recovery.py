"""The part `recovery` of a report: what training a compressed model on the dense one gave back."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True)
class Course:
    """A figure of the dense model, of the compressed one, and after the training."""

    dense: float | None = entry("of the dense model")
    compressed: float | None = entry(
        "of the compressed model; absent where it is too large to hold"
    )
    recovered: float | None = entry("of the compressed model after the training; likewise")


@dataclass(frozen=True, kw_only=True)
class Point:
    """The loss that is trained on, up to a step."""

    step: int = entry("the step")
    loss: float = entry("mean training loss since the entry before")


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
    loss: Course | None = entry(
        "of a language model, on the text of `quality`", "nats", optional=True
    )
    perplexity: Course | None = entry(
        "of a causal language model, on the text of `quality`", optional=True
    )
    off: float | None = entry(
        "score after the training with all attention kernels switched off, so that only their "
        "local mixers are left; absent where no attention was replaced",
        optional=True,
    )
    steps: int = entry("steps of the training")
    trained: str = entry("what was trained: `factors` or `all` weights")
    lr: float = entry("learning rate")
    precision: str = entry("numbers of the passes: `float32` or `bfloat16`")
    sentences: int | None = entry(
        "number of sentences that it was trained on; absent for windows", optional=True
    )
    windows: int | None = entry(
        "number of windows of text that a causal language model was trained on", optional=True
    )
    window: int | None = entry("tokens of a window", "tokens", optional=True)
    tokens: int | None = entry("tokens of all steps together", "tokens", optional=True)
    seconds: float = entry("the training took", "s")
    course: tuple[Point, ...] = entry(
        "the training loss on the way; of windows it is the mean divergence of a token, in nats"
    )
    scored_on: str = entry("what the scores were measured on")
    data: str = entry("where the sentences come from")

    def headline(self) -> tuple[str, float]:
        return self.metric, self.recovered

    def views(self, report: Document, full: bool) -> list[View]:
        kinds = ("dense", "compressed", "recovered")
        what = "all weights" if self.trained == "all" else "factors only"
        beside, name = (self.perplexity, "perplexity") if self.perplexity else (self.loss, "loss")
        read = f"{self.sentences:,} sentences" if self.sentences else ""
        if self.windows and self.tokens:
            read = f"{self.tokens:,} tokens, in {self.windows:,} windows of {self.window:,},"
        rows = [[kind, figure(getattr(self, kind), 4)] for kind in kinds]
        if beside:
            places = 2 if self.perplexity else 4
            cells = (figure(getattr(beside, kind), places) or "over 1e300" for kind in kinds)
            rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
        if self.off is not None:
            rows.append(["kernels off", figure(self.off, 4), *[""] * bool(beside)])
        note = (
            f"{self.steps:,} steps of distilling the dense model on {read} of {self.data}, {what}, "
            f"rate {self.lr:g}, passes in {self.precision}, in {self.seconds:,.0f} s; "
            f"{self.metric} of {self.scored_on}, {self.better} is better"
        )
        if beside and self.metric != "loss":
            note += f"; {name} on the held-out text of the quality"
        if self.off is not None:
            note += "; kernels off: only local mixers are left of attention"
        header = ["", self.metric, *([name] if beside else [])]
        steps = [[f"step {each.step:,}", figure(each.loss, 4)] for each in self.course]
        what = "divergence from the dense model, nats a token" if self.windows else "loss"
        course = View("recovery, on the way", ["", what], steps, "mean since the row before")
        return [View("recovery", header, rows, note), course]
