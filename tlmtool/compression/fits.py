"""A plan that fits: the largest `keep` whose files, in few bits, are no larger than asked for.

What a plan takes in few bits depends on its ranks and not on its parameters alone. So the budget is
found by trying: a plan takes no time once the losses of all sites are known.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tlmtool.compression.drafting import Draft
from tlmtool.decompositions import Decomposition
from tlmtool.failure import Usage
from tlmtool.models.footprint import file_bytes
from tlmtool.models.plain import thin
from tlmtool.models.quantizing import choose
from tlmtool.models.surgery import factorize

STEPS = 10_000  # budgets that there are: a share of parameters has four digits


@dataclass(frozen=True)
class Limit:
    """The most `bytes` of the files of a model that is stored in `bits`.

    `model`: without weights; `embedding`: bits of its tables; `plain`: whether it is written
    without factors, as a narrower model; `shard`: the most bytes of a file; `asked`: the flag;
    `least`: the keep from which on budgets are tried.
    """

    model: Any
    bytes: int
    bits: int
    embedding: int | None
    plain: bool
    shard: int
    asked: str
    least: float = 0.0

    def taken(self, plan: dict[str, Decomposition]) -> int:
        """The bytes of the files of the model with a plan."""
        tried = copy.deepcopy(self.model)
        factorize(tried, plan)
        if self.plain:
            thin(tried)
        chosen = choose(tried, self.bits, self.embedding, plain=self.plain or not plan)
        return file_bytes(tried, self.shard, chosen)

    def largest(self, made: Callable[[float], Draft]) -> tuple[Draft, float]:
        """The draft that `made` gives for the largest keep that fits, and that keep, by bisection.
        Raises Usage where none fits."""
        low, high = int(self.least * STEPS), STEPS
        found: tuple[Draft, float] | None = None
        while high - low > 1 or found is None:
            keep = max((low + high) // 2, low + 1)
            draft = made(keep / STEPS)
            if self.taken(draft.plan) <= self.bytes:
                low, found = keep, (draft, keep / STEPS)
            elif keep == low + 1:
                break
            else:
                high = keep
        if found is None:
            raise Usage(
                f"{self.asked} cannot be reached: --keep {(low + 1) / STEPS} is larger still"
            )
        return found
