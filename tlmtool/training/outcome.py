"""What a training did: its losses, evaluations, selections, and the expansions it ended with."""

from dataclasses import dataclass, field
from typing import Any

from tlmtool.training.expansion import Expansion


@dataclass
class Outcome:
    """The course of a training. A saved state holds all of it but `expansions`.

    `losses`: the mean loss of each step, over as many examples or predicted tokens as `sizes` says.
    `best`: {"score", "step"} of the best evaluation, and its "weights" while these are kept.
    """

    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    selections: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    expansions: list[Expansion] = field(default_factory=list)

    def loss(self, since: int = 0) -> float:
        """The mean loss of the examples or predicted tokens that were seen after step `since`."""
        sizes = self.sizes[since:]
        total = sum(loss * n for loss, n in zip(self.losses[since:], sizes, strict=True))
        return total / max(1, sum(sizes))

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation; 0 where there was none."""
        return self.history[-1]["step"] if self.history else 0
