"""What the command line says where: reports on stdout, progress and logs on stderr, a failure as
one sentence, third parties silent.
"""

import contextlib
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from tlmtool.failure import Failure

QUIET = {  # third parties, unless -v and unless the user's environment says otherwise
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
THREADS = {"GOMP_SPINCOUNT": "2000"}  # waiting threads soon sleep: 4x faster on a busy machine
NOISY = ("transformers", "huggingface_hub", "datasets", "torch", "httpx", "filelock", "accelerate")
NOISY += ("matplotlib",)


def show(report: Any, as_json: bool, verbose: bool) -> None:
    """A report on standard output: as JSON, or as tables."""
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.table(console(), full=verbose)
    sys.stdout.flush()


@contextlib.contextmanager
def told(verbose: bool, quiet: bool) -> Iterator[None]:
    """Work whose output is a report alone, and whose failures are sentences."""
    try:
        with _calm(verbose, quiet), contextlib.redirect_stdout(sys.stderr):
            yield
    except (Failure, BrokenPipeError):
        raise
    except Exception as error:
        if verbose:
            traceback.print_exc()
        raise _explained(error) from error


def _explained(error: Exception) -> Exception:
    """The failure to show for an exception that no command turned into a sentence."""
    if "No space left on device" in str(error):  # safetensors raises its own type
        return OSError(errno.ENOSPC, "No space left on device", getattr(error, "filename", None))
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if full or "can't allocate memory" in str(error):  # torch on a CPU
        return Failure("out of memory: try a smaller batch or length, or another --device")
    if isinstance(error, OSError) and error.filename:
        return error
    what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return Failure(f"internal error: {what} (please report; -v shows the traceback)")


@contextlib.contextmanager
def _calm(verbose: bool, quiet: bool) -> Iterator[None]:
    """Our log on stderr (-q: warnings only, -v: everything); third parties silent unless -v."""
    own = logging.getLogger("tlmtool")
    handler = logging.StreamHandler(sys.stderr)
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    own.propagate = False
    for name, value in (THREADS if verbose else THREADS | QUIET).items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            for name in NOISY:
                logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            own.removeHandler(handler)
            own.propagate = True


def console() -> Any:
    """Standard output, at most 100 columns; without escape codes in a pipe or with NO_COLOR."""
    from rich.console import Console

    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    found = Console(color_system=None if plain else "auto", highlight=False, emoji=False)
    return Console(
        width=100 if not sys.stdout.isatty() else min(100, found.width),
        color_system=None if plain else "auto",
        highlight=False,
        emoji=False,
        markup=False,
    )
