"""Which arms of a study differ: paired t tests over seeds, corrected for how many pairs there are.

Holm's step-down correction (Holm 1979): of m pairs, the smallest p times m, the next times m - 1,
and so on, never below the one before. Where no arm differs, the chance that any pair of the study
is called different is then at most 1 - LEVEL, however many pairs there are.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

LEVEL = 0.95  # of each interval; 1 - LEVEL: of wrong verdicts, over all pairs of a study
ENOUGH = 5  # seeds below which a difference that is not shown may well be there


def spread(scores: list[float]) -> dict[str, Any]:
    """{"mean", "deviation", "scores"} over seeds."""
    deviation = stdev(scores) if len(scores) > 1 else None
    return {"mean": fmean(scores), "deviation": deviation, "scores": scores}


def compared(scores: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Every pair of arms, {arm: score of each seed}: {"first", "second", "difference", "interval",
    "p", "p_holm", "verdict"}. `interval`: paired t, of 95 %, of that pair alone; the verdict is by
    `p_holm`."""
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
    """The adjusted p of each, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = least
    return adjusted


def paired(first: list[float], second: list[float]) -> dict[str, Any]:
    """Mean difference first - second over seeds, its interval, and the p of a paired t test; no p
    for one seed, nor where all differences are one number, which have no spread to judge by."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, mean = len(differences), fmean(differences)
    error = stdev(differences) / n**0.5 if n > 1 else 0.0
    if error <= 1e-12 * max(map(abs, [*first, *second])):
        return {"difference": mean, "interval": None, "p": None}
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1))
    return {"difference": mean, "interval": [mean - half, mean + half], "p": p}


def _verdict(pair: Mapping[str, Any], seeds: int, pairs: int) -> str:
    """What may be said of a pair, in words."""
    few = f"{seeds} seed{'s' * (seeds > 1)}: too few to tell"
    if pair["p"] is None:
        equal = "equal in every seed" if pair["difference"] == 0 else "the same in every seed"
        return few if seeds == 1 else f"{equal}: no spread to judge by"
    if pair["p_holm"] <= 1 - LEVEL:
        return "differ"
    if pair["p"] <= 1 - LEVEL:
        return f"not shown, of {pairs} pairs"
    return few if seeds < ENOUGH else "no difference shown"
