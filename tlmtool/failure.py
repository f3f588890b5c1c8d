"""Expected failures: a sentence (what was asked, what was found, what to do) and an exit code."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from reprlib import Repr
from typing import Any

LAUNCHED = {"RANK": 0, "LOCAL_RANK": -1, "MASTER_PORT": 0}  # {variable of a launcher: its minimum}


_short = Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 2


class Failure(Exception):
    """A failure that users can understand: `str(failure)` is its sentence, `code` its exit code."""

    code = 1


class Usage(Failure, ValueError):
    """A wrong flag, recipe or argument."""

    code = 2


class CheckFailed(Failure):
    """A check that the user (or `merge`) asked for failed."""

    code = 3


class NotLoadable(Failure, OSError):
    """An input does not exist, or cannot be read as what it should be."""

    code = 4

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingDependency(Failure, ImportError):
    """An optional package is needed and not installed."""

    code = 5


class Stopped(BaseException):
    """A signal asked the run to end. It is no Exception, so no handler of errors catches it."""

    def __init__(self, number: int):
        name = signal.Signals(number).name
        super().__init__("interrupted" if name == "SIGINT" else f"ended by {name}")
        self.code = 128 + number


def note_kept(error: BaseException | None, what: str, over: bool = False) -> None:
    """Note on an error that ends a run what `--resume` would go on with, such as '3 of 9 layers
    are done'. The first note stays, unless this is to go `over` it. A Failure gets none, since it
    would come again."""
    if error is not None and not isinstance(error, Failure) and (over or not kept_of(error)):
        vars(error)["kept"] = what


@contextmanager
def noting(what: Callable[[], str], over: bool = False) -> Iterator[None]:
    """Notes on whatever ends the block what is kept, as `note_kept`."""
    try:
        yield
    except BaseException as error:
        note_kept(error, what(), over)
        raise


def kept_of(error: BaseException | None) -> str:
    """What was noted on an error, or on one that it was raised from; otherwise empty."""
    while error is not None:
        if found := vars(error).get("kept"):
            return str(found)
        error = error.__cause__
    return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened; its type if it has no message."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return said[:300] or type(error).__name__


def show(value: Any) -> str:
    """A value as error messages show it: short and printable, numbers without quotes."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]{1,40}", value):
        return value
    try:
        return ascii(value) if isinstance(value, float) else _short.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a very long number"


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turns whatever other code raises within, a panic of Rust too, into NotLoadable.

    Its sentence is `what`, a colon, and the first line of the error.
    """
    try:
        yield
    except (Failure, Stopped, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise NotLoadable(f"{what}: {first_line(error)}") from error


# ---- processes, launched together by torchrun or accelerate


def processes() -> int:
    """How many were launched together. Raises Usage for a WORLD_SIZE that no launcher sets."""
    return _launched("WORLD_SIZE", 1, least=1)


def speaks() -> bool:
    """Whether this process is the one that prints. Raises Usage like `check_environment`."""
    check_environment()
    return processes() == 1 or _launched("RANK", 0) == 0


def check_environment() -> None:
    """Raises Usage if the working directory is gone, which would make a library end the process,
    and for variables that no launcher sets like this: left over, or mistyped."""
    try:
        os.getcwd()
    except OSError:
        raise Usage("the working directory is gone: change to one that is there") from None
    size = processes()
    found = {name: _launched(name, None, least) for name, least in LAUNCHED.items()}
    local = found["LOCAL_RANK"] is not None and found["LOCAL_RANK"] >= 0
    together = "WORLD_SIZE" if size > 1 else "LOCAL_RANK" if local else None
    if together is None:
        return
    found["MASTER_ADDR"] = os.environ.get("MASTER_ADDR")
    if lacks := [name for name, value in found.items() if value is None]:
        raise Usage(
            f"{together} is set and {lacks[0]} is not: launch with torchrun or accelerate, or "
            f"unset {together}"
        )
    if found["RANK"] >= size:
        raise Usage(f"RANK is {found['RANK']} and WORLD_SIZE {size}: a rank must be below the size")


def _launched(name: str, usual: Any, least: int = 0) -> Any:
    if (text := os.environ.get(name)) is None:
        return usual
    if not re.fullmatch("-?[0-9]{1,9}", text) or int(text) < least:
        raise Usage(
            f"the variable {name} is {text[:40]!r}: it should be an integer of at least {least}, "
            "as torchrun and accelerate set it"
        )
    return int(text)


def check_alone(what: str) -> None:
    """Raises Usage if several processes were launched for what one process does."""
    if processes() > 1:
        raise Usage(f"{what} runs in one process: start it without torchrun or accelerate")
