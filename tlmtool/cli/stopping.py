"""SIGTERM, SIGHUP and Ctrl-C end a run as an exception does: what is open is closed, what is
unfinished is removed."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from tlmtool.failure import Stopped

SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT")  # SIGHUP is missing on Windows
PATIENCE = 10.0  # seconds in which repeats are ignored: they would cut off the cleaning up


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Within it the first signal raises `Stopped`, or KeyboardInterrupt for SIGINT; others that
    follow within PATIENCE are ignored.

    A signal that is ignored (as by nohup) or handled by the program that embeds tlm stays so. In
    a thread other than the main one, where no handler can be set, nothing changes.
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
