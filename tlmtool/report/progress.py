"""Progress on stderr: bars in a terminal, otherwise a line for each stage, nothing with -q."""

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from tlmtool.report.printable import printable

log = logging.getLogger("tlmtool")


class Bars(AbstractContextManager):
    """One bar for each stage of a run; `bars(what, done, total)` moves it."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.shown = console.is_terminal and log.isEnabledFor(logging.INFO)
        columns = (
            TextColumn("{task.description:18}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        )
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not self.shown, transient=True
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the terminal may be closed by now
            self.progress.stop()
            sys.stderr.flush()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(printable(what), total=total)
            if not self.shown:
                log.info("%s ...", what)
        shown = printable(f"{what} {note}".strip())
        self.progress.update(self.tasks[what], completed=done, total=total, description=shown)

    def line(self, text: str) -> None:
        """One line that stays, above the bars."""
        if self.shown:
            self.progress.console.print(printable(text), highlight=False, markup=False)
        else:
            log.info("%s", text)

    def of(self, what: str) -> Callable[[int, int], None]:
        """The bar of one stage as a function (done, total)."""
        return lambda done, total: self(what, done, total)
