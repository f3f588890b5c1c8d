"""Scores of predictions against labels, by scikit-learn and scipy, and intervals by resampling."""

import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tlmtool.failure import Failure

RESAMPLES, LEVEL = 2000, 0.95
AT_ONCE = 2**21  # examples resampled at once: bounds the memory of the bootstrap
# indices of examples (S, n) -> a score for each of the S samples
Statistic = Callable[[np.ndarray], np.ndarray]
Metric = Callable[[np.ndarray, np.ndarray], float]  # (labels, predictions)


def _correlation(of: Callable, labels: np.ndarray, found: np.ndarray) -> float:
    value = float(of(labels, found)[0])
    return value if math.isfinite(value) else 0.0


METRICS: dict[str, Metric] = {
    "matthews": matthews_corrcoef,
    "accuracy": accuracy_score,
    "f1": partial(f1_score, zero_division=0.0),
    "pearson": partial(_correlation, pearsonr),
    "spearman": partial(_correlation, spearmanr),
}


WORDS = {
    "matthews": "Matthews correlation of classes",
    "accuracy": "share of classes that are right",
    "f1": "F1 of class 1",
    "pearson": "Pearson correlation of figures",
    "spearman": "Spearman correlation of figures",
}


def described(names: tuple[str, ...]) -> str:
    """'F1 of class 1', 'the mean of ... and ...'."""
    words = " and ".join(WORDS[name] for name in names)
    return f"the mean of {words}" if len(names) > 1 else words


def scored(names: tuple[str, ...], predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{"score": the mean of the metrics, as GLUE defines it, and each metric}, of (n,) and (n,).

    Where predictions are all one, or labels are, a correlation is 0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input
        found = {name: float(METRICS[name](labels, predictions)) for name in names}
    return {"score": sum(found.values()) / len(found), **found}


def statistic(names: tuple[str, ...], predictions: np.ndarray, labels: np.ndarray) -> Statistic:
    """The score of resampled examples."""

    def of(index: np.ndarray) -> np.ndarray:
        return np.array([scored(names, predictions[i], labels[i])["score"] for i in index])

    return of


def paired_interval(
    first: Statistic,
    second: Statistic,
    n: int,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of first - second on the same resampled examples; seeded."""
    draw = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // n)
    differences = []
    for start in range(0, resamples, rows):
        index = draw.integers(0, n, (min(rows, resamples - start), n))
        differences.append(first(index) - second(index))
    tail, finite = (1 - level) / 2, np.concatenate(differences)
    finite = finite[np.isfinite(finite)]  # a resample of equal pairs has no correlation
    if not len(finite):
        raise Failure(
            f"no interval can be given: each of {resamples} resamples of {n} examples is degenerate"
        )
    return float(np.quantile(finite, tail)), float(np.quantile(finite, 1 - tail))
