"""Whether a folder may be written to: never what the run reads, nor its working directory."""

import os
import re
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from tlmtool.failure import Usage

LONGEST, LONGEST_PATH = 255, 3000  # bytes of a name, and of a path: more fails on some systems
ROOM = 24  # bytes that a name grows by while its folder is written
ENTRIES = 10_000  # the most files of a folder that are looked at for links out of it
MOUNTS = Path("/proc/self/mountinfo")

Read = tuple[str, Path]  # (what a user calls it, where it is)


def path_of(text: str | os.PathLike[str]) -> Path:
    """The path that a user names: `~` is home, `..` is followed. Raises Usage for no path."""
    try:
        path = Path(text).expanduser()
        os.stat(os.fsencode(path))
    except (RuntimeError, ValueError) as error:  # no such home, a NUL, or a lone surrogate
        raise Usage(f"{os.fspath(text)!r} cannot be the name of a file: {error}") from None
    except OSError:
        pass
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def check_place(out: Path, reads: Iterable[Read] = ()) -> None:
    """Raises Usage where a folder cannot be made or replaced, or is not apart from what is read."""
    check_apart(out, reads)
    check_makeable(out)


def check_apart(out: Path, reads: Iterable[Read] = ()) -> None:
    """Raises Usage where a folder is, contains or lies inside what is read, or is or contains the
    working directory. Links are followed."""
    _check_name(out)
    target = Path(os.path.realpath(out))
    here = Path(os.path.realpath(os.curdir))
    if how := _relation(target, here, whole=False):
        raise Usage(f"--out {out} {how} the working directory: name a folder in it, or elsewhere")
    for what, path in reads:
        if how := related(target, path):
            raise Usage(f"--out {out} {how} {what} {path}, which is read: give another --out")


def check_makeable(out: Path) -> None:
    """Raises Usage where a finished folder cannot be moved into place from beside it."""
    target = Path(os.path.realpath(out))
    if target.is_dir() and _mounted(target):
        raise Usage(
            f"--out {out} is a mount point, which no finished folder can replace: name a folder "
            f"in it, such as {out / 'model'}"
        )
    above = next(folder for folder in target.parents if os.path.lexists(folder))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise Usage(f"--out {out} cannot be made: {above} is no folder that can be written to")


def related(target: Path, path: Path) -> str:
    """How a folder to be written relates to a path that is read: 'is', 'contains', 'lies inside',
    'contains files of', or '' where they are apart. Links are followed, also those in the path."""
    places = (Path(os.path.realpath(path)), Path(os.path.abspath(path)))
    if how := next(filter(None, (_relation(target, each) for each in places)), ""):
        return how
    inner = islice(chain(path.glob("*"), path.glob("*/*")), ENTRIES) if path.is_dir() else ()
    links = (Path(os.path.realpath(each)) for each in inner if each.is_symlink())
    return "contains files of" if any(target in each.parents for each in links) else ""


def _relation(target: Path, path: Path, whole: bool = True) -> str:
    if _same(target, path):
        return "is"
    if any(_same(target, each) for each in path.parents):
        return "contains"
    inside = whole and path.is_dir() and any(_same(each, path) for each in target.parents)
    return "lies inside" if inside else ""


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are the same folder, also under two names, as a bind mount gives it."""
    try:
        return first == second or os.path.samefile(first, second)
    except OSError:
        return False


def _mounted(target: Path) -> bool:
    """Whether something is mounted there, even a folder of the same file system."""
    if os.path.ismount(target):
        return True
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    places = {re.sub(rb"\\(\d{3})", _octal, line.split()[4]) for line in lines}
    return os.fsencode(target) in places


def _octal(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])


def _check_name(out: Path) -> None:
    target = Path(os.path.realpath(out))
    *above, last = (len(os.fsencode(part)) for part in target.parts)
    if last > LONGEST - ROOM or max(above, default=0) > LONGEST or sum(above) + last > LONGEST_PATH:
        raise Usage(f"--out {str(out)[:60]}... is too long: a name may have {LONGEST - ROOM} bytes")
    if out.is_symlink() and target.is_symlink():
        raise Usage(f"--out {out} is a link that leads in a circle")
