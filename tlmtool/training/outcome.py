"""What a training did: its losses, evaluations, selections, and the expansions it ended with."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from tlmtool.training.expansion import Expansion


@dataclass
class Outcome:
    """The course of a training. A saved state holds all of it but `expansions`.

    `losses`: the mean loss of each step, over as many examples or predicted tokens as `sizes` says.
    `unread`: those of the last steps that are still on a GPU, and belong behind them.
    `best`: {"score", "step"} of the best evaluation, and its "weights" while these are kept.
    """

    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    selections: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    expansions: list[Expansion] = field(default_factory=list)
    unread: list[Tensor] = field(default_factory=list)

    def read(self) -> tuple[int, float] | None:
        """Moves the losses of the last steps from the GPU to `losses`. Returns (step, loss) of the
        first one that is not finite, if there is one."""
        found = torch.stack(self.unread).tolist() if self.unread else []
        first = len(self.losses) + 1
        self.losses += found
        self.unread = []
        wrong = ((first + i, loss) for i, loss in enumerate(found) if not isfinite(loss))
        return next(wrong, None)

    def course(self, most: int) -> list[tuple[int, float]]:
        """(step, mean loss since the step before it in the list), at most so many, evenly."""
        ends = sorted({-(-len(self.losses) * k // most) for k in range(1, most + 1)} - {0})
        return [
            (end, self._mean(start, end)) for start, end in zip([0, *ends][:-1], ends, strict=True)
        ]

    def loss(self, since: int = 0) -> float:
        """The mean loss of the examples or predicted tokens that were seen after step `since`."""
        return self._mean(since, len(self.sizes))

    def _mean(self, start: int, end: int) -> float:
        sizes = self.sizes[start:end]
        total = sum(loss * n for loss, n in zip(self.losses[start:end], sizes, strict=True))
        return total / max(1, sum(sizes))

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation; 0 where there was none."""
        return self.history[-1]["step"] if self.history else 0
