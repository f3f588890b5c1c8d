"""The text of a file: UTF-8, or a sentence that says why not."""

import codecs
from pathlib import Path

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import regular

WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins so too


def place(data: str | Path) -> Path:
    """Where data lies, if it does; raises NotLoadable for what is neither file nor folder: a pipe
    would be waited for, a device read, without end."""
    path = Path(data).expanduser()
    return path if path.is_dir() else regular(path)


def read_text(path: Path) -> str:
    """The text of a file, a byte order mark dropped; raises NotLoadable where there is none."""
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
    """UTF-8 text without byte order mark, with plain line ends; raises NotLoadable for others."""
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
