"""Where a command stands: its stage, the share that is done, and the time that is left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

TRUST, SECONDS = 0.1, 10.0  # share of a forecast that counts as measured before anything is, and so
# many seconds at least. A larger value follows the forecast for longer, a smaller one follows the
# first seconds of the run.


@dataclass
class Stage:
    """One stage of a command. It may be left for another one, and come back.

    `done` of `total`, from `begun` at its first report; `seconds` since then, `spent` in all.
    """

    name: str
    done: int = 0
    total: int = 1
    note: str = ""
    begun: int = 0
    seconds: float = 0.0
    spent: float = 0.0

    @property
    def share(self) -> float:
        """The share of it that is done."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def left(self) -> float | None:
        """The seconds that it will still take at its speed so far; None before there is one."""
        made = self.done - self.begun
        return self.seconds / made * (self.total - self.done) if made > 0 else None


class Course:
    """How far a command is, by what its stages report, and by a forecast where there is one.

    The time left is that of the forecast, times how much slower than it the command has been so
    far. Without a forecast it is that of the stage, at its speed so far. `clock`: seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.stages: dict[str, Stage] = {}
        self.stage: Stage | None = None
        self.expected: list[tuple[str, float]] = []
        self.at = 0  # which stage of the forecast the command is in
        self.covered = 0.0  # seconds of the forecast that are done
        self.started = self.heard = clock()

    def expect(self, stages: Iterable[tuple[str, float]]) -> None:
        """Start now on a forecast: (stage, its seconds) in order. A stage may come twice."""
        self.expected, self.at, self.covered = [*stages], 0, 0.0
        self.started = self.heard = self.clock()

    def reach(self, what: str, done: int, total: int, note: str = "") -> bool:
        """Note how far a stage is; whether it is the first that is heard of it."""
        first, now = what not in self.stages, self.clock()
        if self.stage:
            self.stage.seconds += now - self.heard
            self.stage.spent += now - self.heard
        self.stage = stage = self.stages.setdefault(what, Stage(what, begun=done))
        again = done < stage.done or (total != stage.total and not first)
        if again:
            stage.begun, stage.seconds = done, 0.0
        stage.done, stage.total, stage.note, self.heard = done, total, note, now
        self._cover(stage, self.at + again)
        return first

    def _cover(self, stage: Stage, since: int) -> None:
        """Move on to a stage of the forecast, if it is in it, at or after the place `since`."""
        names = [name for name, _ in self.expected[since:]]
        if stage.name in names:
            self.at = since + names.index(stage.name)
            here = self.expected[self.at][1] * stage.share
            before = sum(seconds for _, seconds in self.expected[: self.at])
            self.covered = max(self.covered, before + here)

    @property
    def seconds(self) -> float:
        """Those since the forecast, or since the beginning."""
        return self.clock() - self.started

    def spent(self) -> dict[str, float]:
        """{stage: its seconds so far}."""
        now = self.clock() - self.heard
        return {
            name: each.spent + (now if each is self.stage else 0.0)
            for name, each in self.stages.items()
        }

    @property
    def whole(self) -> float:
        """The seconds of the forecast."""
        return sum(seconds for _, seconds in self.expected)

    @property
    def share(self) -> float:
        """The share that is done, of the whole command where there is a forecast."""
        if self.expected:
            return self.covered / max(self.whole, 1e-9)
        return self.stage.share if self.stage else 0.0

    @property
    def left(self) -> float | None:
        """The seconds that are left; None where nothing tells."""
        if self.expected:
            trusted = max(SECONDS, TRUST * self.whole)
            slower = (self.heard - self.started + trusted) / max(self.covered + trusted, 1e-9)
            left: float | None = (self.whole - self.covered) * slower
        else:
            left = self.stage.left if self.stage else None
        quiet = self.clock() - self.heard  # in which nothing was reported, and work went on
        return None if left is None else max(0.0, left - quiet)

    @property
    def where(self) -> str:
        """'factorizing 12 of 120', 'training 3 of 400, loss 2.31'."""
        if not (stage := self.stage):
            return ""
        counted = f" {stage.done:,} of {stage.total:,}" if stage.total > 1 else ""
        return ", ".join(filter(None, [stage.name + counted, stage.note]))

    @property
    def remaining(self) -> str:
        """'35 %, about 3 min left'; the seconds so far where nothing tells how many are left."""
        if (left := self.left) is not None:
            return f"{100 * self.share:.0f} %, {about(left)} left"
        seconds = self.stage.seconds if self.stage else 0.0
        return f"{seconds + self.clock() - self.heard:.0f} s so far"

    @property
    def line(self) -> str:
        """'factorizing 12 of 120, 35 %, about 3 min left'."""
        return f"{self.where}, {self.remaining}"

    @property
    def beginning(self) -> str:
        """The line at the start of the stage."""
        name = self.stage.name if self.stage else ""
        return f"{name}, {self.remaining}" if self.expected else f"{name} ..."


def about(seconds: float) -> str:
    """A time as people say it.

    >>> [about(seconds) for seconds in (3, 42, 200, 8000)]
    ['a few seconds', 'about 40 s', 'about 3 min', 'about 2.2 h']
    """
    if seconds < 7.5:
        return "a few seconds"
    if seconds < 95:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
