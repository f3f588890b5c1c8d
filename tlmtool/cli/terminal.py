"""What the command line prints where: reports on stdout, progress and logs on stderr, a failure as
one sentence. Third parties are silent.
"""

import contextlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from tlmtool.cli.explaining import explained
from tlmtool.failure import Failure, Stopped
from tlmtool.report.printable import printable

QUIET = {  # for third parties, unless -v is given or the user's environment says otherwise
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Waiting threads of OpenMP sleep after so many spins, which is 4 times as fast on a busy machine. A
# larger value wakes them sooner on a quiet one.
THREADS = {"GOMP_SPINCOUNT": "2000"}
NOISY = (  # loggers of third parties that are told to be quiet too
    *("accelerate", "bitsandbytes", "datasets", "filelock", "httpx", "huggingface_hub"),
    *("matplotlib", "nncf", "onnx_ir", "onnxruntime", "onnxscript", "torch", "transformers"),
)


def open_streams() -> None:
    """Replaces closed standard streams by the null device; a character that the terminal lacks is
    printed as "?"."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order each gets its own file number again
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def flushed(stream: Any) -> bool:
    """Whether everything printed could be written. The rest is dropped, since Python would complain
    about it at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def show(report: Any, as_json: bool, verbose: bool) -> None:
    """A report on standard output: as JSON, or as tables."""
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.table(console(), full=verbose)
    sys.stdout.flush()


@contextlib.contextmanager
def told(verbose: bool, quiet: bool) -> Iterator[None]:
    """Work that prints nothing on stdout itself, and fails with a sentence."""
    try:
        with _calm(verbose, quiet), contextlib.redirect_stdout(_Shown(sys.stderr)):
            yield
    except (Failure, Stopped):
        raise
    except KeyboardInterrupt as error:  # of which typer would keep the exit code alone
        raise Stopped(signal.SIGINT) from error
    except BaseException as error:
        if verbose:
            with contextlib.suppress(OSError):
                sys.stderr.write(printable(traceback.format_exc()))
        sentence, code = explained(error)
        failure = Failure(sentence)
        failure.code = code
        raise failure from error


class _Shown:
    """A stream for text from elsewhere: control characters are written as their numbers."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):  # nobody reads it: the work goes on
            self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    _Shown(sys.stderr).write(warnings.formatwarning(message, category, filename, lineno))


@contextlib.contextmanager
def _calm(verbose: bool, quiet: bool) -> Iterator[None]:
    """The log of tlm goes to stderr (-q: warnings, -v: everything); third parties need -v."""
    own = logging.getLogger("tlmtool")
    handler = logging.StreamHandler(sys.stderr)
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    own.propagate = False
    for name, value in (THREADS if verbose else THREADS | QUIET).items():
        os.environ.setdefault(name, value)
    made = logging.getLogRecordFactory()

    def record(*args: Any, **more: Any) -> logging.LogRecord:
        found = made(*args, **more)
        with contextlib.suppress(Exception):  # a message that does not fit its arguments
            found.msg, found.args = printable(found.getMessage()), ()
        return found

    logging.setLogRecordFactory(record)
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        if not verbose:
            warnings.simplefilter("ignore")
            for name in NOISY:
                logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.setLogRecordFactory(made)
            own.removeHandler(handler)
            own.propagate = True


def console() -> Any:
    """Standard output, at most 100 columns wide. It writes no escape codes into a pipe or with
    NO_COLOR, and never any but its own."""
    from rich.console import Console
    from rich.segment import Segment

    class Shown(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    made = Shown(color_system=None if plain else "auto", highlight=False, emoji=False, markup=False)
    made.width = min(100, made.width) if sys.stdout.isatty() else 100
    return made
