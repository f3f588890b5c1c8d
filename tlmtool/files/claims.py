"""One writer at a time: a claim on a path ends with its process, and whoever has it next clears
away what a killed writer left.

The lock is `flock` on an empty hidden sibling, `.NAME.lock`. A path that ends in a link is claimed
where the link leads.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from tlmtool.failure import Usage, speaks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("tlmtool")
TOKEN = r"(?:\d+|[0-9a-z_]{8})"  # between the name of what is written and the ends below
UNFINISHED, REPLACED = ".unfinished", ".replaced"
UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_held: ContextVar[tuple[tuple[Path, bool], ...]] = ContextVar("held", default=())  # and if locked
_stack: ContextVar[ExitStack | None] = ContextVar("stack", default=None)


@contextmanager
def claims() -> Iterator[None]:
    """Whatever is claimed in the block by `claim` is given back at its end."""
    before = _stack.get()
    with ExitStack() as stack:
        _stack.set(stack)
        try:
            yield
        finally:
            _stack.set(before)


def claim(path: Path) -> None:
    """`claimed` until the end of the `claims` round it; without one, nothing is claimed yet."""
    if (stack := _stack.get()) is not None:
        stack.enter_context(claimed(path))


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """No other process or thread claims `path` in the block; inside a claim of one's own, nothing
    happens. Of several processes launched together the first claims.

    Folders above are made, and go again where the block leaves them empty. Raises Usage where
    another has it. Where the file system knows no locks, nothing is locked or cleared away.
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
            with suppress(OSError):  # it holds something, or another run has removed it
                folder.rmdir()


@contextmanager
def _locked(target: Path, path: Path) -> Iterator[bool]:
    """Whether there is a lock at all; it is removed before it is let go."""
    lock = target.with_name(f".{target.name}.lock")
    for last in (*[False] * 99, True):  # where files have no lasting identity, one is as good
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
        os.close(opened)  # its holder has removed it meanwhile
    try:
        yield locked
    finally:
        with suppress(OSError):
            if os.fstat(opened).st_size == 0:  # else it is somebody's file of this name
                lock.unlink()
        os.close(opened)


def _opened(lock: Path) -> int:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # a run that has failed removed the folder meanwhile
            return os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def settle(target: Path) -> None:
    """Put back what a killed run had moved away, remove what it left unfinished, and say so. By the
    holder of the claim, who is the only living writer."""
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
    """Remove files and folders that a killed run left; links are not followed."""
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
    """Remove the files in a claimed folder that a killed run had begun to write."""
    if not dict(_held.get()).get(Path(os.path.realpath(folder))):
        return
    kind = re.compile(rf"\..+\.{TOKEN}{UNFINISHED}", re.DOTALL)
    with os.scandir(folder) as entries:
        sweep([Path(e.path) for e in entries if kind.fullmatch(e.name) and e.is_file()])
