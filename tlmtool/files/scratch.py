"""Folders for files that a run needs while it works; those of killed runs are removed."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows, where folders of killed runs stay
    fcntl = None  # type: ignore[assignment]

PREFIX, LOCK = "tlm-", ".in-use"


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder that goes with its run. The run holds a lock on a file in it; where nobody
    holds that lock, the run was killed, and the next one removes the folder."""

    def __init__(self) -> None:
        sweep()
        super().__init__(prefix=PREFIX)
        self._give_back: Callable[[], Any] = lambda: None
        if fcntl is not None:
            file = Path(self.name) / LOCK
            new = file.with_suffix(".new")
            held = os.open(new, os.O_CREAT | os.O_WRONLY)
            self._give_back = weakref.finalize(self, os.close, held)
            with suppress(OSError):  # a file system without locks: the folder is never swept
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(file)  # locked before it can be found

    def cleanup(self) -> None:
        """Remove the folder, and give the lock back."""
        super().cleanup()
        self._give_back()


def sweep() -> None:
    """Remove the folders that killed runs have left."""
    if fcntl is None:
        return
    for file in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), file.open("r+") as opened:  # of another user, or in use
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.parent)
