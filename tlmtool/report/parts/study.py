"""The parts `study` and `cost` of a report: how arms compare over seeds, and what a study costs."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, mean
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.expansions import Expansion, Selection
from tlmtool.report.pieces import Score


@dataclass(frozen=True, kw_only=True)
class Result(Score):
    """The training of one arm with one seed, or one trial of a rate."""

    arm: str | None = entry("the arm; absent for the trial of a rate", optional=True)
    seed: int | None = entry("the seed; absent for the trial of a rate", optional=True)
    lr: float = entry("learning rate")
    of: str = entry("mark of the study that it belongs to")
    better: str = entry("whether `higher` or `lower` is better")
    metric: str = entry("the metric of the score")
    steps: int = entry("steps that were made")
    chosen: tuple[str, ...] | None = entry("the matrices that were expanded", optional=True)
    step_ratio: float | None = entry("geometric mean of their step ratios", optional=True)
    selections: tuple[Selection, ...] | None = entry("as in the part `selections`", optional=True)
    expansions: tuple[Expansion, ...] | None = entry("as in the part `expansions`", optional=True)
    warnings: tuple[str, ...] = entry("what could not be done as it was asked for")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm over all seeds."""

    arm: str = entry("the arm")
    mean: float = entry("mean of its scores")
    deviation: float | None = entry("standard deviation of its scores; null for one seed")
    scores: tuple[float, ...] = entry("score of each seed")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two arms compared by a paired t test over seeds."""

    first: str = entry("the first arm")
    second: str = entry("the second arm")
    difference: float = entry("mean of first - second")
    interval: tuple[float, float] | None = entry("95 % interval of this pair alone, or null")
    p: float | None = entry("p of the test; null where there is no spread to judge by")
    p_holm: float | None = entry("the same after Holm's correction over all pairs")
    verdict: str = entry("what may be said of the pair, in words")


@dataclass(frozen=True, kw_only=True)
class Study(Part):
    """Arms that were trained with several seeds, and how they compare."""

    key: ClassVar[str] = "study"
    verbs: ClassVar = {"finetune": "written study"}

    lr: float = entry("learning rate of the arms")
    rates: tuple[Result, ...] = entry("the trials of `--lr-grid`")
    results: tuple[Result, ...] = entry("each arm with each seed")
    arms: tuple[Arm, ...] = entry("each arm over all seeds")
    pairs: tuple[Pair, ...] = entry("each pair of arms")

    def headline(self) -> tuple[str, float]:
        """The mean over seeds, of the last of several arms."""
        last, metric = self.arms[-1], self.results[0].metric
        return f"{metric}, {last.arm}" if len(self.arms) > 1 else metric, last.mean

    def views(self, report: Document, full: bool) -> list[View]:
        return [self._arms(), self._pairs()]

    def _arms(self) -> View:
        rows = []
        for each in self.arms:
            scores = " ".join(figure(score, 4) for score in each.scores)
            rows.append([each.arm, figure(each.mean, 4), figure(each.deviation, 4), scores])
        first = self.results[0]
        ratio = mean((each.step_ratio for each in self.results), 2)
        note = f"{first.metric}, {first.better} is better; {first.steps:,} steps in all, rate "
        note += f"{self.lr:g}" + (f", step ratio {ratio}" if ratio else "")
        return View("arms", ["", "mean", "deviation", "of each seed"], rows, note)

    def _pairs(self) -> View:
        rows = []
        for pair in self.pairs:
            low, high = pair.interval or (None, None)
            interval = "" if low is None else f"[{low:+.4f}, {high:+.4f}]"
            cells = [f"{pair.difference:+.4f}", interval, figure(pair.p_holm), pair.verdict]
            rows.append([f"{pair.first} - {pair.second}", *cells])
        note = (
            "interval: paired t over seeds, 95 % for that pair alone; p: of the paired t test, by "
            f"Holm's correction over {len(rows)} pairs; the verdict is by p: where no arms differ, "
            "at most 5 % of studies say of any pair that they do"
        )
        header = ["", "difference", "interval", "p (Holm)", "verdict"]
        return View("differences", header, rows, note)


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """What the trainings of one arm are predicted to cost."""

    arm: str = entry("the arm")
    runs: int = entry("number of trainings")
    step_flops: int = entry("operations of one step", "FLOPs")
    flops: int = entry("operations of all its trainings", "FLOPs")


@dataclass(frozen=True, kw_only=True)
class Cost(Part):
    """What a study is predicted to cost."""

    key: ClassVar[str] = "cost"
    verbs: ClassVar = {"finetune": "predicted study"}

    runs: int = entry("number of trainings")
    steps: int = entry("steps of each training")
    flops: int = entry("operations of all trainings", "FLOPs")
    rows: tuple[ArmCost, ...] = entry("each arm")
    note: str = entry("what was counted, in words")

    def views(self, report: Document, full: bool) -> list[View]:
        rows = [
            [row.arm, str(row.runs), human(row.step_flops, "FLOPs"), human(row.flops, "FLOPs")]
            for row in self.rows
        ]
        rows.append(["in all", str(self.runs), "", human(self.flops, "FLOPs")])
        return [View("study", ["", "trainings", "a step", "in all"], rows, self.note)]
