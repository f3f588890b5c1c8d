"""What a score was measured on, kept so that two reports can be compared later."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np

from tlmtool.measuring.intervals import FEW, Statistic
from tlmtool.tasks.table import TASKS

GROUPS = FEW  # more make the interval of a difference less noisy, and reports longer


def marked(statistic: Statistic, n: int, task: str, examples: Iterable[Any], *how: Any) -> dict:
    """The fields of `report.pieces.Examples`: a mark of the examples, and the score without each
    group of them.

    `statistic`: the score of resampled examples, of which there are n. `how`: what else must be the
    same for two scores to be comparable, such as the window of a perplexity. Of a classification
    of fewer than `FEW` examples nothing is left out: such an interval would be too narrow.
    """
    kind = TASKS[task].kind if task in TASKS else ""
    few = kind == "classification" and n < FEW
    found = [] if few else left_out(statistic, n)
    return {"sha256": mark(task, examples, *how), "left_out": found}


def mark(task: str, examples: Iterable[Any], *how: Any) -> str:
    """A sum over a task, its examples in their order, and how they are read."""
    found = sha256(repr((task, *how)).encode())
    for each in examples:
        plain = tuple(each) if isinstance(each, tuple) else each
        found.update(f"{plain!r}\n".encode(errors="surrogatepass"))
    return found.hexdigest()


def left_out(statistic: Statistic, n: int) -> list[float]:
    """The score without each of `GROUPS` groups of n examples, or without each of fewer examples.
    Every 64th example is of the same group. Empty for fewer than two examples."""
    groups, places = min(n, GROUPS), np.arange(n)
    if groups < 2:
        return []
    return [float(statistic(places[places % groups != g][None])[0]) for g in range(groups)]
