"""What several parts of a report hold: values before and after, scores, times."""

from dataclasses import dataclass

from tlmtool.report.layout import entry


@dataclass(frozen=True, kw_only=True)
class Ends:
    """A quantity before and after the change."""

    before: int = entry("before the change")
    after: int = entry("after the change")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of one pass, over several runs that take turns with those of other models."""

    median: float = entry("median of the runs", "ms")
    min: float = entry("the fastest run", "ms")
    max: float = entry("the slowest run", "ms")
    cpu: float = entry(
        "median processor time of all threads; waiting for other programs does not count", "ms"
    )
    runs: int = entry("number of timed runs")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a score was measured on. `tlm compare` prints the difference of two scores where both
    have the same `sha256`, with an interval by what is left out."""

    sha256: str = entry("mark of the task, its examples, and how they are read")
    left_out: tuple[float, ...] = entry(
        "the score, or the loss, without each of up to 64 groups of the examples; example i is of "
        "group i modulo 64"
    )


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a model is on a task."""

    score: float = entry("the score; of several metrics, their mean")
    metrics: dict[str, float] = entry(
        "each metric of the score, under its own name", names="metrics", spread=True
    )
    loss: float | None = entry("mean loss of a token", "nats", when="predicts")
    perplexity: float | None = entry("e to the power of the loss", when="perplexed")
    beams: int | None = entry("hypotheses that the search keeps", when="translates")
    signature: str | None = entry("the settings of BLEU, as sacrebleu writes them", optional=True)
    examples: Examples | None = entry("what it was measured on", optional=True)
