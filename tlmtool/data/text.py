"""Reads the text of a file, which must be UTF-8."""

import codecs
from pathlib import Path

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import regular

WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 also begins with one of them


def place(data: str | Path) -> Path:
    """The path of data, also where nothing is there. Raises NotLoadable for what is neither a file
    nor a folder, as reading a pipe or a device may never end."""
    path = Path(data).expanduser()
    return path if path.is_dir() else regular(path)


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises NotLoadable where it has no text."""
    if path.is_dir():
        raise NotLoadable(f"{path} is a directory, not a text file: name a file in it")
    if not path.exists():
        raise NotLoadable(f"{path} does not exist: name a text file")
    try:
        raw = regular(path).read_bytes()
    except NotLoadable:
        raise
    except OSError as error:
        raise NotLoadable(f"{path} cannot be read: {error.strerror}") from error
    return decoded(raw, str(path))


def decoded(raw: bytes, name: str) -> str:
    """UTF-8 text without a byte order mark, with plain line ends. Raises NotLoadable for others."""
    if raw.startswith(WIDE):
        raise NotLoadable(f"{name} is UTF-16 or UTF-32 text: save it as UTF-8")
    if b"\0" in raw:
        raise NotLoadable(
            f"{name} is binary (a NUL byte at {raw.index(0)}): it should be UTF-8 text"
        )
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise NotLoadable(
            f"{name} is not UTF-8 text (byte {raw[error.start]:#04x} at {error.start}): convert it"
        ) from error
