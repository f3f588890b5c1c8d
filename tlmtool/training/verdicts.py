"""Which arms of a study differ: paired t tests over seeds, corrected for the number of pairs.

Holm's step-down correction (Holm 1979): of m pairs, the smallest p is multiplied by m, the next by
m - 1, and so on, and none falls below the one before. Where no arm differs, the chance that any
pair is called different is then at most 1 - LEVEL, however many pairs there are.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

LEVEL = 0.95  # of each interval; higher means wider intervals and fewer wrong verdicts in a study
ENOUGH = 5  # with fewer seeds, a verdict says "too few to tell" instead of "no difference shown"


def spread(scores: list[float]) -> dict[str, Any]:
    """{"mean", "deviation", "scores"} over seeds."""
    deviation = stdev(scores) if len(scores) > 1 else None
    return {"mean": fmean(scores), "deviation": deviation, "scores": scores}


def compared(scores: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """{"first", "second", "difference", "interval", "p", "p_holm", "verdict"} of every pair of
    arms, from {arm: score of each seed}. `interval`: the paired t interval of 95 % of that pair
    alone. The verdict follows from `p_holm`."""
    pairs = [
        {"first": a, "second": b, **paired(scores[a], scores[b])}
        for a, b in combinations(scores, 2)
    ]
    adjusted = holm([1.0 if pair["p"] is None else pair["p"] for pair in pairs])
    for pair, p in zip(pairs, adjusted, strict=True):
        pair["p_holm"] = None if pair["p"] is None else p
        pair["verdict"] = _verdict(pair, len(scores[pair["first"]]), len(pairs))
    return pairs


def holm(ps: Sequence[float]) -> list[float]:
    """Each p after Holm's correction, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = least
    return adjusted


def paired(first: list[float], second: list[float]) -> dict[str, Any]:
    """The mean difference first - second over seeds, its interval, and the p of a paired t test.
    There is no p for one seed, or where all differences are equal and so have no spread."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, mean = len(differences), fmean(differences)
    error = stdev(differences) / n**0.5 if n > 1 else 0.0
    if error <= 1e-12 * max(map(abs, [*first, *second])):
        return {"difference": mean, "interval": None, "p": None}
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1))
    return {"difference": mean, "interval": [mean - half, mean + half], "p": p}


def _verdict(pair: Mapping[str, Any], seeds: int, pairs: int) -> str:
    """What the test says of a pair, in words."""
    few = f"{seeds} seed{'s' * (seeds > 1)}: too few to tell"
    if pair["p"] is None:
        equal = "equal in every seed" if pair["difference"] == 0 else "the same in every seed"
        return few if seeds == 1 else f"{equal}: no spread to judge by"
    if pair["p_holm"] <= 1 - LEVEL:
        return "differ"
    if pair["p"] <= 1 - LEVEL:
        return f"not shown, of {pairs} pairs"
    return few if seeds < ENOUGH else "no difference shown"
