"""The parts `scores` and `training` of a report: the score before and after, and the course."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, figure
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Score
from tlmtool.tasks.metrics import digits

TRAINED = {"finetune": "written single"}


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation in the course of a training."""

    step: int = entry("the step after which it was made")
    loss: float = entry("mean loss of what was seen since the evaluation before", "nats")
    score: float | None = entry(
        "score on the examples that are watched; absent in a last row without one", optional=True
    )
    metrics: dict[str, float] = entry("each metric of the score, under its own name", spread=True)


@dataclass(frozen=True, kw_only=True)
class Training(Part):
    """How the model was trained."""

    key: ClassVar[str] = "training"
    verbs: ClassVar = TRAINED

    task: str = entry("the task, or `distillation`")
    steps: int = entry("steps that were made")
    batch: int = entry("examples of a step")
    lr: float = entry("largest learning rate")
    strategy: str = entry("`none`, `static` or `dynamic`")
    last_loss: float = entry("mean loss of the last 50 steps", "nats")
    metric: str = entry("the metric that is watched on the way")
    history: tuple[Evaluated, ...] = entry("the evaluations on the way")
    chosen_step: int | None = entry("step of the model that was kept, with `--keep-best`")
    examples: int = entry("number of examples, or of blocks with `--pack`")
    dev: int = entry("number of development examples, or of blocks")
    held_out: str | None = entry("which part of a text is held out", optional=True)
    watched: str | None = entry("the examples that are watched on the way", optional=True)
    max_length: int | None = entry(
        "tokens of a text that are read at most", "tokens", optional=True
    )
    unit: str | None = entry("what an example is, where it is not one text", optional=True)
    taught: str | None = entry("what is learned from the teacher", optional=True)
    processes: int | None = entry("number of processes, if there were several", optional=True)
    sharded: bool | None = entry("whether they kept shards of the weights", optional=True)

    def views(self, report: Document, full: bool) -> list[View]:
        rows = [
            [f"step {each.step}", figure(each.loss, 4), figure(each.score, 4)]
            for each in self.history
        ]
        note = ""
        if self.watched:
            note = f"loss: mean of what was seen since the last row; {self.metric}: on "
            note += self.watched
        if self.chosen_step:
            note += f"; kept: the model of step {self.chosen_step}"
        return [View("on the way", ["", "loss", self.metric], rows, note)]

    def described(self, better: str) -> str:
        """'20 steps of 32 of 8,551 examples, rate 5e-05, strategy none; scored on ...'."""
        unit = self.unit or "examples"
        told = (
            f"{self.steps:,} steps of {self.batch} of {self.examples:,} {unit}, rate {self.lr:g}, "
            f"strategy {self.strategy}; scored on {self.dev:,} development {unit}, {better} is "
            "better"
        )
        if self.processes:
            way = "FSDP, in shards" if self.sharded else "DDP"
            told += f"; {self.processes} processes ({way})"
        told += f"; held out: {self.held_out}" if self.held_out else ""
        return told + (f"; the teacher's {self.taught} are learned" if self.taught else "")


@dataclass(frozen=True, kw_only=True)
class Scores(Part):
    """The score on the development examples."""

    key: ClassVar[str] = "scores"
    verbs: ClassVar = TRAINED

    before: Score | None = entry(
        "before the training; absent where the head of the model is new", optional=True
    )
    after: Score = entry("after the training")
    name: str = entry("the metric of the score")
    better: str = entry("whether `higher` or `lower` is better")

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        found = {"score": "scores.after.score"}
        found |= {name: f"scores.after.{name}" for name in asked.beside}
        return found | ({"BLEU": "scores.after.score"} if asked.translates else {})

    def named(self) -> dict[str, str]:
        names = ("score", "loss", "perplexity", "beams")
        there = [name for name in names if getattr(self.after, name) is not None]
        found = {name: f"scores.after.{name}" for name in (*there, *self.after.metrics)}
        return found | ({"BLEU": "scores.after.score"} if self.name == "BLEU" else {})

    def headline(self) -> tuple[str, float]:
        return self.name, self.after.score

    def views(self, report: Document, full: bool) -> list[View]:
        """Each metric before, where it is known, and after."""
        after, training = self.after, report.part(Training)
        labels = {name: name for name in (*after.metrics, "loss", "perplexity")}
        labels = {k: v for k, v in labels.items() if _metric(after, k) is not None}
        if not labels:
            labels = {"score": self.name}
        elif len(labels) > 1 and self.name not in labels:
            labels["score"] = "score, their mean"
        rows = []
        for name, label in labels.items():
            cells = [figure(_metric(each, name), digits(name)) for each in (self.before, after)]
            rows.append([label, *cells])
        note = training.described(self.better) if training else ""
        if after.signature:
            note += f"; beams {after.beams}, sacrebleu {after.signature}"
        title = f"task {training.task}" if training else "scores"
        return [View(title, ["", "before", "after"], rows, note)]


def _metric(score: Score | None, name: str) -> float | None:
    if score is None:
        return None
    value: float | None = score.metrics.get(name, getattr(score, name, None))
    return value
