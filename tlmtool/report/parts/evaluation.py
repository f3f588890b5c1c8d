"""The parts of a report of evaluate: the score of a model, and how a baseline compares."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, figure, human, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Score
from tlmtool.tasks.metrics import digits
from tlmtool.tasks.table import TASKS


@dataclass(frozen=True, kw_only=True)
class Scored(Score):
    """A model and its score."""

    id: str = entry("the model")
    n: int = entry("number of examples, or of windows")
    file_bytes: int | None = entry("size of the files of weights", "bytes", optional=True)
    bits_per_weight: float | None = entry("bits of those for each parameter", "bits", optional=True)
    sums: dict[str, str] | None = entry(
        "checksum (sha256) of each of those files, and of config.json", optional=True
    )
    tokens: int | None = entry("number of tokens of the loss", when="modelled")
    bounds: tuple[float | None, float | None] | None = entry(
        "95 % interval of the perplexity, by resampled windows; null for one window",
        when="windowed",
    )
    blocks: int | None = entry("number of blocks of text", when="packed")
    pooled: str | None = entry("how hidden states become one vector", optional=True)

    def size_in_words(self) -> str:
        """'out/int8 23.5 MB, 8.29 bits per weight'."""
        size, bits = human(self.file_bytes, "B"), figure(self.bits_per_weight, 2)
        return f"{self.id} {size}, {bits} bits per weight"


@dataclass(frozen=True, kw_only=True)
class Baseline(Scored):
    """The model of `--baseline`, and how far the first model's score lies from its own."""

    difference: float = entry(
        "score of the first model, less that of this one; of perplexities the difference of the "
        "losses, in nats"
    )
    ratio: float | None = entry(
        "perplexity of the first model, as a multiple of that of this one", when="modelled"
    )
    ratio_interval: tuple[float | None, float | None] | None = entry(
        "paired interval of that ratio, or null", when="modelled"
    )
    interval: tuple[float, float] | None = entry("paired interval of the difference, or null")
    level: float = entry("how often such an interval holds the true difference", "share")
    method: str = entry("how the interval was made, or why there is none")
    resamples: int | None = entry("how often the examples were drawn anew", optional=True)

    def difference_in_words(self) -> str:
        """'-0.0230 to minilm, 95 % interval [-0.0301, -0.0159] (2,000 paired resamples)'."""
        unit = " nats" if self.ratio is not None else ""
        interval = ""
        if self.interval is not None:
            low, high = self.interval
            interval = f", {100 * self.level:g} % interval [{low:+.4f}, {high:+.4f}]"
        return f"{self.difference:+.4f}{unit} to {self.id}{interval} ({self.method})"

    def ratio_in_words(self) -> str:
        """'1.105 times that of minilm, 95 % interval [1.101, 1.109]'."""
        interval = ""
        if self.ratio_interval is not None:
            low, high = (figure(end) for end in self.ratio_interval)
            interval = f", {100 * self.level:g} % interval [{low}, {high}]"
        return f"{figure(self.ratio)} times that of {self.id}{interval}"


@dataclass(frozen=True, kw_only=True)
class Evaluation(Part):
    """A task, and the scores of the models on it."""

    verbs: ClassVar = {"evaluate": ""}

    task: str = entry("the task")
    metric: str = entry("the metric of the score")
    better: str = entry("whether `higher` or `lower` is better")
    what: str = entry("what the metric is, in words")
    max_length: int = entry("tokens of a text that are read at most", "tokens")
    window: int | None = entry("tokens that are read at once", "tokens", when="windowed")
    stride: int | None = entry("tokens from one window to the next", "tokens", when="windowed")
    begin_token: bool | None = entry(
        "whether a begin token is read before each window, as the tokenizer puts one before a text",
        optional=True,
    )
    models: tuple[Scored, ...] = entry("the model that was evaluated", count="models")
    baseline: Baseline | None = entry("the model to compare with", when="baseline")

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        names = asked.task.names if asked.task else ()
        found = dict.fromkeys(("score", *names), "models.0.score")
        return found | {name: f"models.0.{name}" for name in (*asked.beside, "n")}

    def named(self) -> dict[str, str]:
        first = self.models[0]
        names = ("loss", "perplexity", "tokens", "blocks", "beams")
        there = [name for name in names if getattr(first, name) is not None]
        found = {name: f"models.0.{name}" for name in ("n", *there, *first.metrics)}
        row = TASKS.get(self.task)
        return found | dict.fromkeys(("score", *(row.names if row else ())), "models.0.score")

    def headline(self) -> tuple[str, float]:
        return self.metric, self.models[0].score

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        told = [] if self.window is None else [("windows", self._windows())]
        several = [*self.models, *([self.baseline] if self.baseline else [])]
        sizes = [each.size_in_words() for each in several if each.file_bytes is not None]
        told.append(("on disk", "; ".join(sizes)))
        if self.baseline is not None:
            told.append(("difference", self.baseline.difference_in_words()))
            if self.baseline.ratio is not None:
                told.append(("perplexity", self.baseline.ratio_in_words()))
        return told

    def _windows(self) -> str:
        """'window 512, stride 512, no begin token; 95 % interval of the perplexity [20.1, 31]'."""
        begin = "a begin token before each" if self.begin_token else "no begin token"
        told = f"window {self.window}, stride {self.stride}, {begin}"
        bounds = self.models[0].bounds
        if bounds is None:
            return told
        low, high = (figure(end, digits("perplexity")) for end in bounds)
        return f"{told}; 95 % interval of the perplexity [{low}, {high}]"

    def views(self, report: Document, full: bool) -> list[View]:
        names = list(self.models[0].metrics)
        rows, values = [], dict[str, float | None]()
        for each in [*self.models, *([self.baseline] if self.baseline else [])]:
            values = {name: each.metrics.get(name) for name in names}
            values |= {"loss": each.loss}
            values |= {} if self.metric == "perplexity" else {"perplexity": each.perplexity}
            cells = [figure(value, digits(name)) for name, value in values.items()]
            mark = " (baseline)" if each is self.baseline else ""
            score = figure(each.score, digits(self.metric))
            tokens = "" if each.tokens is None else f"{each.tokens:,}"
            beams = str(each.beams or "")
            rows.append([each.id + mark, score, *cells, beams, tokens, f"{each.n:,}"])
        metric = words(self.metric)
        several = " and " in self.metric
        header = ["model", "score" if several else metric, *values, "beams", "tokens"]
        header.append("examples" if self.window is None else "windows")
        title, note = f"task {self.task}", f"{metric}: {self.what}, {self.better} is better"
        return [View(title, header, rows, note)]
