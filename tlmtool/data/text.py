"""The text of a file: UTF-8, or a sentence that says why not."""

from pathlib import Path

from tlmtool.failure import NotLoadable


def read_text(path: Path) -> str:
    """The text of a file, a byte order mark dropped; raises NotLoadable where there is none."""
    if path.is_dir():
        raise NotLoadable(f"{path} is a directory, not a text file: name a file in it")
    if not path.exists():
        raise NotLoadable(f"{path} does not exist: name a text file")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotLoadable(f"{path} cannot be read: {error.strerror}") from error
    return decoded(raw, str(path))


def decoded(raw: bytes, name: str) -> str:
    """UTF-8 text without byte order mark, with plain line ends; raises NotLoadable for others."""
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
