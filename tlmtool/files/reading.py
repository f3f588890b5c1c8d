"""Reads files that others wrote: only ordinary ones, and none that is larger than it can be.

A pipe or a device in place of a file would block the run, or be read without end.
"""

import hashlib
import os
import stat
from pathlib import Path

from tlmtool.failure import NotLoadable

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def regular(path: str | os.PathLike[str], most: int | None = None) -> Path:
    """The path, once it is known to be an ordinary file of at most `most` bytes, or missing.

    Links are followed. Raises NotLoadable for anything else, and says what it is.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # missing: the caller opens it and has the sentence for that
        return Path(path)
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise NotLoadable(f"{os.fspath(path)} is {kind}: it should be an ordinary file")
    if most is not None and found.st_size > most:
        raise NotLoadable(
            f"{os.fspath(path)} has {found.st_size:,} bytes: at most {_size(most)} is read of such "
            "a file"
        )
    return Path(path)


def read_text(path: str | os.PathLike[str], most: int) -> str:
    """The text, in UTF-8, of an ordinary file of at most `most` bytes.

    Raises NotLoadable as `regular` does, OSError where it cannot be opened, and UnicodeDecodeError.
    """
    with regular(path, most).open("rb") as opened:
        return opened.read(most).decode("utf-8")


def sha256(file: Path) -> str:
    """The hex digest of an ordinary file."""
    with regular(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _size(count: int) -> str:
    """2097152 -> 2 MiB"""
    name, unit = next(((n, u) for n, u in UNITS if count >= u), ("bytes", 1))
    return f"{count // unit} {name}"
