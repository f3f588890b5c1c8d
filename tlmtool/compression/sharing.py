"""What several compressions of one model, on one text, measure once."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Shared:
    """Keeps what the first of several compressions measured, for those that follow.

    Only what does not depend on the budget belongs here. `seconds`: what it took to measure each;
    `measured`: whether an earlier one has, or in a dry run would have, measured the model.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.measured = False

    def once(self, name: str, measure: Callable[[], T]) -> T:
        """What `measure` gives, from the first time that this is asked for by this name."""
        if name not in self.kept:
            inner, started = sum(self.seconds.values()), time.perf_counter()
            self.kept[name] = measure()
            nested = sum(self.seconds.values()) - inner  # measured inside, and counted there
            self.seconds[name] = time.perf_counter() - started - nested
        found: T = self.kept[name]
        return found
