"""Expected failures: a sentence (asked, found, what to do) and the exit code of `tlm` for each."""

import os
import signal


class Failure(Exception):
    """What a user can understand; `str(failure)` is the sentence, `code` the exit status."""

    code = 1


class Usage(Failure, ValueError):
    """A wrong flag, recipe or argument."""

    code = 2


class CheckFailed(Failure):
    """A check that the user (or `merge`) asked for did not hold."""

    code = 3


class NotLoadable(Failure, OSError):
    """An input that does not exist or cannot be read as what it should be."""

    code = 4

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingDependency(Failure, ImportError):
    """An optional package that this run needs is not installed."""

    code = 5


class Stopped(BaseException):
    """A signal asked the run to end. No Exception, so that nothing on the way takes it for one."""

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


def processes() -> int:
    """How many were launched together, by torchrun or accelerate."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_alone(what: str) -> None:
    """Raises Usage where several processes were launched for what one does."""
    if processes() > 1:
        raise Usage(f"{what} runs in one process: launch it without torchrun or accelerate")
