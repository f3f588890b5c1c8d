"""Scores of predictions against labels, by the function that each row of the metrics names."""

import math
import warnings
from pkgutil import resolve_name

import numpy as np

from tlmtool.measuring.intervals import Statistic
from tlmtool.tasks.metrics import METRICS


def value(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A metric of (n,) predictions and (n,) labels; 0 where it is not defined, as a correlation is
    not where all predictions or all labels are equal."""
    metric = METRICS[name]
    if len(labels) < metric.least:
        return 0.0
    found = resolve_name(metric.function)(labels, predictions)
    found = float(getattr(found, "statistic", found))  # scipy returns more than the figure
    return found if math.isfinite(found) else 0.0


def scored(
    names: tuple[str, ...],
    predictions: np.ndarray,
    labels: np.ndarray,
    beside: tuple[str, ...] = (),
) -> dict[str, float]:
    """{"score": the mean of the metrics, as GLUE defines it, and each metric}, of (n,) and (n,).

    `beside`: metrics that are no part of the mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input
        found = {name: value(name, predictions, labels) for name in (*names, *beside)}
    return {"score": sum(found[name] for name in names) / len(names), **found}


def statistic(names: tuple[str, ...], predictions: np.ndarray, labels: np.ndarray) -> Statistic:
    """The score of resampled examples."""

    def of(index: np.ndarray) -> np.ndarray:
        return np.array([scored(names, predictions[i], labels[i])["score"] for i in index])

    return of
