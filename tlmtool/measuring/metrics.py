"""Scores of predictions against labels, by scikit-learn and scipy."""

import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tlmtool.measuring.intervals import Statistic

Metric = Callable[[np.ndarray, np.ndarray], float]  # (labels, predictions)


def _correlation(of: Callable, labels: np.ndarray, found: np.ndarray) -> float:
    value = float(of(labels, found)[0]) if len(labels) > 1 else 0.0
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
