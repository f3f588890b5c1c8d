"""Progress on stderr: one line with a bar in a terminal, lines in a log, nothing with -q."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from tlmtool.failure import speaks
from tlmtool.report.course import Course
from tlmtool.report.printable import printable

log = logging.getLogger("tlmtool")
EVERY = 30.0  # seconds between two lines of a log; with fewer, a long run has a longer log
LOOK = 2.0  # seconds between two looks at the clock while a stage reports nothing
NAMED, BAR = 35, 16  # columns of the stage and of the bar: with the time left they fit into 80


class Bars(AbstractContextManager):
    """The progress of one command; `bars(what, done, total)` says how far a stage of it is.

    In a terminal it is one line: the stage, a bar, and the time left. In a log it is a line at the
    start of each stage, and one every 30 seconds while it works. With a forecast (`expect`) the
    bar, the share and the time left are those of the whole command, otherwise those of the stage.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        console = Console(stderr=True)
        self.told = log.isEnabledFor(logging.INFO) and speaks()
        self.shown = console.is_terminal and self.told
        self.course = Course(clock)
        named = Column(width=NAMED, no_wrap=True, overflow="ellipsis")
        columns = (_Of(lambda: self.course.where, named), BarColumn(BAR), _Of(self._left))
        self.progress = Progress(
            *columns, console=console, disable=not self.shown, transient=True, expand=False
        )
        self.task = self.progress.add_task("", total=1.0, visible=False)
        self.clock, self.spoke = clock, clock()
        self.lock, self.ended = threading.RLock(), threading.Event()
        self.watch: threading.Thread | None = None

    def __enter__(self) -> "Bars":
        self.progress.start()
        if self.told and not self.shown:  # a daemon, so that it never keeps a process alive
            self.watch = threading.Thread(target=self._watched, daemon=True)
            self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.watch:
            self.watch.join(LOOK)
        with suppress(OSError):  # the terminal may be closed by now
            self.progress.stop()
            sys.stderr.flush()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        with self.lock:
            if self.course.reach(what, done, total, note):
                self._say(self.course.beginning)
            self.beat()
        self.progress.update(self.task, completed=self.course.share, visible=True)

    def expect(self, stages: Iterable[tuple[str, float]]) -> None:
        """The forecast of the rest of the command: (stage, its seconds) in order."""
        with self.lock:
            self.course.expect(stages)

    def beat(self) -> None:
        """A line in a log, if none has been written for 30 seconds."""
        with self.lock:
            if self.course.stage and self.clock() - self.spoke >= EVERY:
                self._say(self.course.line)

    def line(self, text: str) -> None:
        """One line that stays, above the bar."""
        if self.shown:
            self.progress.console.print(printable(text), highlight=False, markup=False)
        else:
            log.info("%s", text)

    def of(self, what: str) -> Callable[[int, int], None]:
        """The progress of one stage as a function (done, total)."""
        return lambda done, total: self(what, done, total)

    def _say(self, text: str) -> None:
        self.spoke = self.clock()
        if self.told and not self.shown:
            log.info("%s", text)

    def _left(self) -> str:
        return self.course.remaining

    def _watched(self) -> None:
        """Look at the clock until the end, for stages that report nothing for a long time."""
        while not self.ended.wait(LOOK):
            self.beat()


class _Of(ProgressColumn):
    """A column with a text that is asked for at each refresh."""

    def __init__(self, text: Callable[[], str], column: Column | None = None):
        super().__init__(column or Column(no_wrap=True))
        self.text = text

    def render(self, task: Task) -> Text:
        return Text(printable(self.text()))
