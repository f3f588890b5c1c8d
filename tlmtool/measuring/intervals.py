"""Intervals of the difference of two models on the same examples: a t interval for few examples,
and percentiles of resamples for many."""

from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from tlmtool.failure import Failure

RESAMPLES, LEVEL = 2000, 0.95  # more resamples take longer, and make the ends less noisy
FEW = (
    64  # with fewer examples a t interval is given: percentiles would cover 0.85 to 0.92, not 0.95
)
LEAST = 1e-9  # share of a difference; a smaller spread is taken for rounding
ADDED = 2  # examples that are added to a classification of few examples (`with_added`)
AT_ONCE = 2**21  # examples that are resampled at once; more take more memory and less time
# indices of examples (S, n) -> a score for each of the S samples
Statistic = Callable[[np.ndarray], np.ndarray]


def paired_interval(
    first: Statistic,
    second: Statistic,
    n: int,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    added: int = 0,
) -> tuple[float, float]:
    """The interval of first - second on the same n examples: percentiles of seeded resamples of
    them, or below `FEW` a t interval by the jackknife. For a mean that is the usual paired t
    interval.

    `added`: the number of examples at n and after it that the t interval includes. Raises Failure
    for fewer than two examples, and where no sample has a score or all have the same one.
    """

    def apart(index: np.ndarray) -> np.ndarray:
        return first(index) - second(index)

    if n < FEW:
        return _jackknife(apart, n + added, level)
    draw = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // n)
    differences = []
    for start in range(0, resamples, rows):
        differences.append(apart(draw.integers(0, n, (min(rows, resamples - start), n))))
    tail, found = (1 - level) / 2, _finite(np.concatenate(differences), 1, n)
    return float(np.quantile(found, tail)), float(np.quantile(found, 1 - tail))


def said(n: int, added: int = 0) -> str:
    """How `paired_interval` finds the interval of n examples, in words."""
    if n >= FEW:
        return f"{RESAMPLES:,} paired resamples"
    return f"jackknife t, {n} examples" + (f" and {added} added" if added else "")


def with_added(labels: np.ndarray, answers: list[np.ndarray]) -> tuple[np.ndarray, list, int]:
    """(labels, answers of each of two models, how many were added). `ADDED` examples of class 1 are
    added, and each model gets another one of them right.

    On few examples, two good models often differ in one answer or none. That has no spread, so that
    a t interval is far too narrow. With the two added, it covers (Agresti and Min 2005; Bonett and
    Price 2012).
    """
    if len(answers) != ADDED:
        return labels, answers, 0
    right, wrong = labels.dtype.type(1), labels.dtype.type(0)
    mine = ((right, wrong), (wrong, right))
    more = [np.append(each, extra) for each, extra in zip(answers, mine, strict=True)]
    return np.append(labels, (right, right)), more, ADDED


def _jackknife(apart: Statistic, n: int, level: float) -> tuple[float, float]:
    """A t interval by the spread of the scores with each of n examples left out (Tukey 1958)."""
    if n < 2:
        raise Failure(f"no interval can be given of {n} example: two are needed")
    places = np.arange(n)
    left_out = np.array([np.delete(places, i) for i in places])  # (n, n - 1)
    found = _finite(apart(left_out), 2, n)
    return by_left_out(found, float(apart(places[None])[0]), level)


def by_left_out(found: np.ndarray, whole: float, level: float = LEVEL) -> tuple[float, float]:
    """The t interval of a difference, by the difference without each example, or without each of
    several groups of equal size. `whole`: the difference on all of them. Raises Failure where all
    are the same."""
    m = len(found)
    error = float(np.sqrt((m - 1) / m * np.square(found - found.mean()).sum()))
    if error < LEAST * abs(whole):
        raise Failure(f"leaving out any of {m} examples changes nothing: no interval can be given")
    half = float(student.ppf((1 + level) / 2, m - 1)) * error
    return whole - half, whole + half


def _finite(found: np.ndarray, least: int, n: int) -> np.ndarray:
    """The scores that are numbers; a sample of equal pairs has no correlation."""
    held = found[np.isfinite(found)]
    if len(held) < least:
        raise Failure(
            f"each of {len(found)} samples of {n} examples is degenerate: no interval can be given"
        )
    return held
