"""Intervals of the difference of two models on the same examples: a t interval of few examples, by
resampling of many."""

from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from tlmtool.failure import Failure

RESAMPLES, LEVEL = 2000, 0.95
FEW = 64  # examples below which percentiles of resamples lie too near: 0.85 to 0.92 for 0.95
LEAST = 1e-9  # of a difference: a smaller spread is rounding
ADDED = 2  # examples that go with few answers that are right or wrong
AT_ONCE = 2**21  # examples resampled at once: bounds the memory of the bootstrap
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
    """Interval of first - second on the same n examples: percentiles of seeded resamples of them,
    below `FEW` a t interval by the jackknife (of a mean the usual paired t interval).

    `added`: so many examples more, at n and after it, that the t interval takes in. Raises Failure
    for fewer than two examples, or where no sample of them has a score, or all have the same one.
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
    """(labels, answers of each of two models, how many were added): classes with `ADDED` examples
    of class 1 more, of which each model alone gets one right.

    Of few examples two good models often differ in none or one, which has no spread: a t interval
    is then far too narrow. With these two it covers (Agresti and Min 2005; Bonett and Price 2012).
    """
    if len(answers) != ADDED:
        return labels, answers, 0
    right, wrong = labels.dtype.type(1), labels.dtype.type(0)
    mine = ((right, wrong), (wrong, right))
    more = [np.append(each, extra) for each, extra in zip(answers, mine, strict=True)]
    return np.append(labels, (right, right)), more, ADDED


def _jackknife(apart: Statistic, n: int, level: float) -> tuple[float, float]:
    """t interval by the spread of what leaving out each of n examples changes (Tukey 1958)."""
    if n < 2:
        raise Failure(f"no interval can be given of {n} example: two are needed")
    places = np.arange(n)
    left_out = np.array([np.delete(places, i) for i in places])  # (n, n - 1)
    found = _finite(apart(left_out), 2, n)
    whole, m = float(apart(places[None])[0]), len(found)
    error = float(np.sqrt((m - 1) / m * np.square(found - found.mean()).sum()))
    if error < LEAST * abs(whole):
        raise Failure(f"leaving out any of {n} examples changes nothing: no interval can be given")
    half = float(student.ppf((1 + level) / 2, m - 1)) * error
    return whole - half, whole + half


def _finite(found: np.ndarray, least: int, n: int) -> np.ndarray:
    """Those that are numbers: a sample of equal pairs has no correlation."""
    held = found[np.isfinite(found)]
    if len(held) < least:
        raise Failure(
            f"each of {len(found)} samples of {n} examples is degenerate: no interval can be given"
        )
    return held
