"""Only one process writes to a path at a time.

A claim on a path ends with its process. The next process that claims the path clears away what a
killed one left. The lock is `flock` on an empty hidden file beside the path, `.NAME.lock`. For a
link, the path that it leads to is claimed.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tlmtool.failure import Usage, speaks

fcntl: ModuleType | None
try:
    fcntl = import_module("fcntl")
except ImportError:  # Windows: nothing is locked
    fcntl = None

log = logging.getLogger("tlmtool")
# Names of unfinished and replaced files are `.NAME.TOKEN` with one of these ends. Change none of
# them: what a killed run of an older version left would not be found any more.
TOKEN = r"(?:\d+|[0-9a-z_]{8})"
UNFINISHED, REPLACED = ".unfinished", ".replaced"
# Errors of file systems that know no locks: the run goes on without one.
UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

# (path, whether it is locked) of the claims of this context.
_held: ContextVar[tuple[tuple[Path, bool], ...]] = ContextVar("held", default=())
_stack: ContextVar[ExitStack | None] = ContextVar("stack", default=None)


@contextmanager
def claims() -> Iterator[None]:
    """Release at the end of the block whatever `claim` has claimed inside it."""
    before = _stack.get()
    with ExitStack() as stack:
        _stack.set(stack)
        try:
            yield
        finally:
            _stack.set(before)


def claim(path: Path) -> None:
    """As `claimed`, until the end of the surrounding `claims`. Without one, nothing is claimed."""
    if (stack := _stack.get()) is not None:
        stack.enter_context(claimed(path))


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Let no other process or thread claim `path` during the block.

    Inside a claim on the same path nothing happens. Of several processes that were launched
    together, the first one claims. Missing parent folders are made, and removed again where they
    stay empty. Raises Usage where another run has the path. Where the file system knows no locks,
    nothing is locked or cleared away.
    """
    target = Path(os.path.realpath(path))
    if target in dict(_held.get()) or not speaks():
        yield
        return
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        with _locked(target, path) as locked:
            if locked:
                settle(target)
            _held.set((*_held.get(), (target, locked)))
            try:
                yield
            finally:
                _held.set(tuple(each for each in _held.get() if each[0] != target))
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty, or another run has removed it
                folder.rmdir()


@contextmanager
def _locked(target: Path, path: Path) -> Iterator[bool]:
    """Yields whether there is a lock. Its file is removed before the lock is released."""
    lock = target.with_name(f".{target.name}.lock")
    for last in (*[False] * 99, True):  # some file systems give no file a lasting identity
        opened = _opened(lock)
        try:
            if fcntl is not None:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = fcntl is not None
        except OSError as error:
            if error.errno not in UNKNOWN:
                os.close(opened)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise Usage(
                    f"another run is writing {path}: wait until it ends, or write elsewhere"
                ) from None
            locked = False
        with suppress(OSError):
            if last or os.path.samestat(os.fstat(opened), os.stat(lock)):
                break
        os.close(opened)  # the one that held it has removed it: lock the new file
    try:
        yield locked
    finally:
        with suppress(OSError):
            if os.fstat(opened).st_size == 0:  # else it is a file of the user's
                lock.unlink()
        os.close(opened)


def _opened(lock: Path) -> int:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another run that failed has removed the folder
            return os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def settle(target: Path) -> None:
    """Put back what a killed run had moved away, remove what it left unfinished, and log both. Only
    for the process that holds the claim, since then no other one writes."""
    kind = re.compile(rf"\.{re.escape(target.name)}\.{TOKEN}(?:{UNFINISHED}|{REPLACED})")
    with os.scandir(target.parent) as entries:
        left = sorted(Path(each.path) for each in entries if kind.fullmatch(each.name))
    if not os.path.lexists(target):
        old = [each for each in left if each.suffix == REPLACED]
        if old:
            newest = max(old, key=lambda each: each.stat().st_mtime_ns)
            newest.rename(target)
            left.remove(newest)
            log.warning("put back %s, which a killed run had moved away", target)
    sweep(left)


def sweep(left: list[Path]) -> None:
    """Remove files and folders that a killed run left. Links are removed, not followed."""
    for each in left:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            with suppress(OSError):
                each.unlink()
    if left:
        names = ", ".join(each.name for each in left[:3]) + (" ..." if len(left) > 3 else "")
        log.warning("removed %s of %s, left by a run that was killed", names, left[0].parent)


def sweep_within(folder: Path) -> None:
    """Remove the unfinished files of a killed run inside a claimed folder."""
    if not dict(_held.get()).get(Path(os.path.realpath(folder))):
        return
    kind = re.compile(rf"\..+\.{TOKEN}{UNFINISHED}", re.DOTALL)
    with os.scandir(folder) as entries:
        sweep([Path(e.path) for e in entries if kind.fullmatch(e.name) and e.is_file()])
