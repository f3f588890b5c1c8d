"""The part `quality` of a report: how good a model is before and after the change."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, figure, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Examples
from tlmtool.report.printable import printable

HEADER = ["", "before", "after", "after / before", "after - before"]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """The perplexity of a causal language model, e to the power of its loss."""

    before: float | None = entry("of the model before", optional=True)
    after: float | None = entry("of the model after; absent where it is too large to hold")
    ratio: float | None = entry("after / before", optional=True)
    interval: tuple[float, float] | None = entry(
        "95 % interval of the ratio; absent for one window", optional=True
    )


@dataclass(frozen=True, kw_only=True)
class Nats:
    """How far the loss of a language model rose. Losses are compared as differences alone."""

    difference: float = entry("after - before", "nats")
    interval: tuple[float, float] | None = entry(
        "95 % interval of the difference, in windows; absent for one window", "nats", optional=True
    )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt, and how the model continues it: the most likely token, 32 times."""

    prompt: str = entry("the prompt")
    before: str | None = entry("what the model before wrote", optional=True)
    after: str = entry("what the model after wrote")
    loops: bool = entry("whether it repeats itself after, and did not before")


@dataclass(frozen=True, kw_only=True)
class Quality(Part):
    """The loss of a language model before and after, with the perplexity of a causal one; without a
    language-model head, the feature error."""

    key: ClassVar[str] = "quality"
    verbs: ClassVar = {
        "compress": "written",
        "quantize": "",
        "finetune": "written single causal",
    }

    name: str = entry("`loss` or `feature_error`")
    what: str = entry("what was measured, in words")
    before: float | None = entry("of the model before", "nats, or a share for a feature error")
    after: float = entry("of the model after", "nats, or a share for a feature error")
    texts: int | None = entry("number of held-out texts it was measured on", optional=True)
    tokens: int | None = entry("number of held-out tokens, in windows", optional=True)
    perplexity: Perplexity | None = entry("of a causal language model", optional=True)
    nats: Nats | None = entry("of a language model", optional=True)
    samples: tuple[Sample, ...] | None = entry("of a causal language model", optional=True)
    examples: Examples | None = entry("what it was measured on", optional=True)
    alarms: tuple[str, ...] | None = entry("signs that the model is damaged", optional=True)

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        found = {"perplexity": "quality.perplexity.after"}
        if asked.trains:  # its own loss is that of lines
            return found
        return dict.fromkeys(("loss", "feature_error"), "quality.after") | found

    def named(self) -> dict[str, str]:
        found = {} if self.perplexity is None else {"perplexity": "quality.perplexity.after"}
        return found | {self.name: "quality.after"}

    def headline(self) -> tuple[str, float]:
        if self.perplexity is not None and self.perplexity.after is not None:
            return "perplexity", self.perplexity.after
        return self.name, self.after

    def views(self, report: Document, full: bool) -> list[View]:
        rows, note = [], f"{words(self.name)}: {self.what}"
        if each := self.perplexity:
            ends = [figure(each.before, 2), figure(each.after, 2) or "over 1e300"]
            rows.append(["perplexity", *ends, figure(each.ratio), ""])
            if each.interval:
                note += "; 95 % interval of the ratio: {:.3f} to {:.3f}".format(*each.interval)
        ends = [figure(self.before, 4), figure(self.after, 4)]
        rows.append(
            [words(self.name), *ends, "", f"{self.nats.difference:+.3f}" if self.nats else ""]
        )
        shown = [View("quality", HEADER, rows, note)]
        return [*shown, View("samples", ["", "text"], self._samples())]

    def _samples(self) -> list[list[str]]:
        """Rows of prompts, each followed by its two continuations."""
        rows = []
        for each in self.samples or ():
            rows.append(["prompt", line(each.prompt)])
            rows += [["before", line(each.before)]] if each.before is not None else []
            rows.append(["after, in a loop" if each.loops else "after", line(each.after)])
        return rows


def line(text: str) -> str:
    """A text on one line, without letters that a terminal obeys."""
    return printable(text.replace("\n", "\\n"))
