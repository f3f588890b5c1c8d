"""Expected failures: a sentence (asked, found, what to do) and the exit code of `tlm` for each."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from reprlib import Repr
from typing import Any

LAUNCHED = {"RANK": 0, "LOCAL_RANK": -1, "MASTER_PORT": 0}  # variable of a launcher: its least


_short = Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 2


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


def first_line(error: BaseException) -> str:
    """The first line of what an error says, shortened; its type where it says nothing."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return said[:300] or type(error).__name__


def show(value: Any) -> str:
    """A value as an error shows it: short, printable, numbers given as text without quotes."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]{1,40}", value):
        return value
    try:
        return ascii(value) if isinstance(value, float) else _short.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a very long number"


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Whatever the code of others raises within, a panic of Rust too, becomes NotLoadable: `what`
    fails, and why."""
    try:
        yield
    except (Failure, Stopped, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise NotLoadable(f"{what}: {first_line(error)}") from error


# ---- processes, launched together by torchrun or accelerate


def processes() -> int:
    """How many were launched together. Raises Usage where the environment is no launcher's."""
    return _launched("WORLD_SIZE", 1, least=1)


def speaks() -> bool:
    """Whether this process is the one that prints. Raises Usage as `check_environment` does."""
    check_environment()
    return processes() == 1 or _launched("RANK", 0) == 0


def check_environment() -> None:
    """Raises Usage where the working directory is gone (a library would end the process), and for
    variables that no launcher sets so: left behind, or mistyped."""
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
            f"{together} is set and {lacks[0]} is not: launch by torchrun or accelerate, or unset "
            f"{together}"
        )
    if found["RANK"] >= size:
        raise Usage(f"RANK is {found['RANK']} and WORLD_SIZE {size}: ranks are below the size")


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
    """Raises Usage where several processes were launched for what one does."""
    if processes() > 1:
        raise Usage(f"{what} runs in one process: launch it without torchrun or accelerate")
