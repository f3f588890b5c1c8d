"""The metrics, one row each. Adding a row is all that a new metric needs."""

from dataclasses import dataclass
from typing import Literal

from tlmtool.failure import Failure

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """A way to score a model.

    `words`: what it is, as reports say it. `function`: of (labels, predictions), written
    "module:name" and imported at its first use; None where the task computes the metric itself.
    `digits`: of its column in a table. `also`: other names for it in `--fail-if`. `beside`: kinds
    of task whose reports show it beside their score. `least`: with fewer examples it is not
    defined. `interval`: with fewer examples a difference of two models has no interval.
    """

    name: str
    words: str
    function: str | None = None
    better: Better = "higher"
    digits: int = 4
    also: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    least: int = 1
    interval: int = 2


_METRICS = (
    Metric("matthews", "Matthews correlation of classes", "sklearn.metrics:matthews_corrcoef"),
    Metric("accuracy", "share of classes that are right", "sklearn.metrics:accuracy_score"),
    Metric("f1", "F1 of class 1", "sklearn.metrics:f1_score"),
    # Any two examples correlate at 1 or -1, so that leaving out one of three says nothing.
    Metric(
        "pearson",
        "Pearson correlation of figures",
        "scipy.stats:pearsonr",
        least=2,
        interval=4,
    ),
    Metric(
        "spearman",
        "Spearman correlation of figures",
        "scipy.stats:spearmanr",
        least=2,
        interval=4,
    ),
    Metric("nll", "mean negative log-likelihood in nats", better="lower", also=("loss",)),
    Metric("perplexity", "e to the power of the loss", better="lower", digits=2),
    Metric("relative error", "relative Frobenius error", better="lower"),
    Metric("BLEU", "corpus BLEU of what the model generates", digits=2),
)
METRICS = {metric.name: metric for metric in _METRICS}


def known(name: str) -> Metric:
    """The row of a metric. Raises Failure for a name without one."""
    if name not in METRICS:
        raise Failure(
            f"metric {name} has no row in tlmtool/tasks/metrics.py: add one, or name one of "
            f"{', '.join(METRICS)}"
        )
    return METRICS[name]


def digits(name: str) -> int:
    """How many digits a table shows of a figure; 4 for one that is no metric, such as a loss."""
    return METRICS[name].digits if name in METRICS else 4
