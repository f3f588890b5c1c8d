"""Scores of predictions against labels, by the function that each row of the metrics names."""

import math
import warnings
from pkgutil import resolve_name

import numpy as np

from tlmtool.measuring.intervals import Statistic
from tlmtool.tasks.metrics import METRICS, known


def value(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A metric of (n,) predictions and (n,) labels; nan where it is not defined, as a correlation
    is not where all predictions or all labels are equal."""
    metric = known(name)
    if len(labels) < metric.least:
        return math.nan
    found = resolve_name(metric.function)(labels, predictions)
    found = float(getattr(found, "statistic", found))  # scipy returns more than the figure
    return found if math.isfinite(found) else math.nan


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


def undefined(found: dict[str, float], n: int, whose: str) -> list[str]:
    """A warning that names the metrics, of those that `scored` gave, that are not defined; `n`:
    the number of examples, `whose`: 'of minilm'."""
    names = [name for name, value in found.items() if name != "score" and math.isnan(value)]
    if not names:
        return []
    few = n < max(METRICS[name].least for name in names)
    why = f"{n} example is too few" if few else "all its predictions, or all labels, are equal"
    are = "are" if len(names) > 1 else "is"
    return [f"{' and '.join(names)} {whose} {are} not defined: {why}"]


def statistic(names: tuple[str, ...], predictions: np.ndarray, labels: np.ndarray) -> Statistic:
    """The score of resampled examples."""

    def of(index: np.ndarray) -> np.ndarray:
        return np.array([scored(names, predictions[i], labels[i])["score"] for i in index])

    return of
