"""The part `front` of a report: several budgets of one model, by size and quality."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.tasks.metrics import digits

DENSE, INT8 = WHOLE = ("dense", "dense, int8")  # points of the model before, which are no budget


@dataclass(frozen=True, kw_only=True)
class Point:
    """The model at one budget."""

    budget: str = entry("the budget, such as `keep 0.9`; `dense` for the model before")
    keep: float | None = entry("share of the chosen layers that is kept", optional=True)
    share: float | None = entry("share of the whole model that is kept", optional=True)
    parameters: int | None = entry("parameters of the model", "parameters", optional=True)
    bytes: int | None = entry(
        "of its files of weights; in a dry run, of the weights in memory", "bytes", optional=True
    )
    flops: int | None = entry("of one forward pass, as in `flops`", "FLOPs", optional=True)
    quality: float | None = entry("its loss, or its feature error", optional=True)
    rise: float | None = entry("how much that is above the dense model's", optional=True)
    interval: tuple[float, float] | None = entry(
        "95 % interval of the rise, of a causal language model", optional=True
    )
    perplexity: float | None = entry("of a causal language model", optional=True)
    score: float | None = entry("its score, with `--data`", optional=True)
    score_interval: tuple[float, float] | None = entry(
        "interval of the score's difference from the dense model's", optional=True
    )
    seconds: float | None = entry("time of its own stages", "s", optional=True)
    out: str | None = entry("its folder", optional=True)
    failed: str | None = entry("why there is no such model", optional=True)
    taken: bool | None = entry("true for the budget that `--max-loss-increase` took", optional=True)


@dataclass(frozen=True, kw_only=True)
class Front(Part):
    """Several budgets of one model, by size and quality."""

    key: ClassVar[str] = "front"
    verbs: ClassVar = {"compress": "tried"}

    points: tuple[Point, ...] = entry("the dense model, then each budget")
    quality: str | None = entry("`loss` or `feature_error`", optional=True)
    what: str | None = entry("what that is, in words", optional=True)
    metric: str | None = entry("the metric of the score", optional=True)
    better: str | None = entry("whether a `higher` or `lower` score is better", optional=True)
    shared_seconds: float | None = entry(
        "time of what was measured once for all budgets: the text, the dense model, the inputs, "
        "the sensitivity and the spectra of its layers",
        "s",
        optional=True,
    )
    bound: float | None = entry(
        "the rise that `--max-loss-increase` allows", "nats, or a share", optional=True
    )
    picture: str | None = entry("the file that shows it", optional=True)

    def views(self, report: Document, full: bool) -> list[View]:
        name = words(self.quality or "")
        header = ["", "of model", "parameters", "bytes", name, "rise", "perplexity"]
        header += [words(self.metric or "score"), "seconds"]
        rows = [self._row(each) for each in self.points]
        predicted = self.shared_seconds is None and not self.quality
        return [View("budgets", header, rows, self._note(predicted))]

    def _row(self, each: Point) -> list[str]:
        if each.failed:
            return [each.budget, "failed", *[""] * 7]
        return [
            f"{each.budget}, taken" if each.taken else each.budget,
            figure(each.share),
            human(each.parameters),
            human(each.bytes, "B"),
            figure(each.quality, 4),
            "" if each.rise is None or each.quality == each.rise else f"{each.rise:+.3f}",
            figure(each.perplexity, 2),
            figure(each.score, digits(self.metric or "")),
            "" if each.seconds is None else f"{each.seconds:.0f}",
        ]

    def _note(self, predicted: bool) -> str:
        told = [f"{words(self.quality or '')}: {self.what}" if self.what else ""]
        told += ["bytes in memory, as if every layer kept the same share" if predicted else ""]
        told += [f"{self.metric}: {self.better} is better" if self.metric else ""]
        taken = next((each for each in self.points if each.taken), None)
        if self.bound is not None and taken is not None:
            told.append(f"taken: the smallest budget tried whose rise is at most {self.bound:g}")
            if taken.interval:
                low, high = taken.interval
                told[-1] += f"; its 95 % interval is {low:+.3f} to {high:+.3f}"
            told.append("the held-out text is small: on other text the rise may be above the bound")
        return "\n".join(filter(None, told))

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        count = sum(each.budget not in WHOLE for each in self.points)
        once = self.shared_seconds
        shared = f"{once:.1f} s of measuring, once for {count} budgets" if once else ""
        return [("shared", shared), ("picture", self.picture or "")]
