"""Writes files and folders whole or not at all, with the permissions that the umask gives."""

import ctypes
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlmtool.failure import Failure, Usage
from tlmtool.files.claims import REPLACED, UNFINISHED, claimed

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # constants of Linux, for `renameat2`


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file; text in UTF-8. A killed run leaves the file that was there before. Of a link,
    the file that it leads to is replaced. A file that was there keeps its permissions."""
    file = Path(os.path.realpath(file))
    unfinished = file.with_name(f".{file.name}.{os.getpid()}{UNFINISHED}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        with suppress(FileNotFoundError):
            shutil.copymode(file, unfinished)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(out: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yields a temporary folder beside `out`, which becomes `out` when the block succeeds.

    If the block fails, the temporary folder is removed. Just before the exchange `check` may raise.
    What `out` held is exchanged in one step where the system can. A link to a folder stays a link.
    Raises Failure where the finished folder cannot be put in place; it says where the folder is.
    """
    target = Path(os.path.realpath(out))
    with claimed(target):
        temporary = _sibling(target, UNFINISHED)
        temporary.mkdir()
        try:
            yield temporary
            _open_up(temporary)
            try:
                check()
                _put(temporary, target)
            except (OSError, Usage) as error:
                raise _kept(temporary, out, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # what `out` held, or what has failed


def _sibling(target: Path, end: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{end}")


def _open_up(folder: Path) -> None:
    """Give files the permissions of new ones: safetensors writes files for their owner only."""
    mode = folder.stat().st_mode & 0o666
    for place, _, files in os.walk(folder):
        for name in files:
            os.chmod(os.path.join(place, name), mode)


def _put(new: Path, target: Path) -> None:
    """Rename `new` to `target`. What was there is then at `new`, or removed."""
    if not target.exists():
        return os.rename(new, target)
    if exchange(new, target):
        return None
    old = _sibling(target, REPLACED)  # after a kill from here on the next claim puts it back
    try:
        os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    return shutil.rmtree(old, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths of one file system in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _kept(temporary: Path, out: Path, error: Exception) -> Exception:
    """The failure to raise, after moving the finished folder to a visible name."""
    target = Path(os.path.realpath(out))
    names = (f"{target.name}.finished{n}" for n in itertools.chain([""], itertools.count(2)))
    place = next(p for p in map(target.with_name, names) if not os.path.lexists(p))
    with suppress(OSError):
        os.rename(temporary, place)
        why = str(error) if isinstance(error, Usage) else getattr(error, "strerror", None) or error
        return Failure(f"the result could not become {out} ({why}): it is {place}")
    return error
