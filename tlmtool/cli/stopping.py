"""SIGTERM, SIGHUP and Ctrl-C end a run like an exception: files are closed, unfinished results
are removed."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from tlmtool.failure import Stopped

SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT")  # SIGHUP is missing on Windows
# Seconds in which further signals are ignored, since they would interrupt the clean-up. With a
# larger value a run that hangs in its clean-up can only be ended later.
PATIENCE = 10.0


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Within it a signal raises `Stopped`, or KeyboardInterrupt for SIGINT. Further signals within
    PATIENCE are ignored.

    A signal that is already ignored (as by nohup), or handled by a program that embeds tlm, is left
    alone. Nothing changes in a thread other than the main one, which cannot set handlers.
    """
    last = -PATIENCE

    def stop(number: int, _: Any) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before < PATIENCE:
            return
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    main = threading.current_thread() is threading.main_thread()
    ours = [each for each in numbers if main and signal.getsignal(each) in usual]
    kept = {each: signal.signal(each, stop) for each in ours}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
