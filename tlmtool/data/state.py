"""The state of a run on disk, whole or not at all, so that a killed one goes on exactly."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tlmtool.data.fingerprints import Sums, changed
from tlmtool.failure import Failure, NotLoadable, Usage
from tlmtool.files.reading import regular
from tlmtool.recipe.sources import current

NAME, UNFINISHED = "state.pt", ".state.pt.unfinished"
REPLACED = "replaced.pt"  # the state of a run that was started again; nothing reads it
FORMAT = 3  # of the state; a state of another number is refused, so raise it where old ones fail
SUM = b"\ntlm sha256 "  # a file ends with this and the sum of all bytes before it, in hex
END = len(SUM) + 64
AGAIN = "--overwrite starts again"


class Store:
    """`<out>.training/state.pt`, which is there while a training is under way. Runs of another
    `kind` keep theirs in `<out>.<kind>/`.

    `identity` (its recipe) and `inputs` (the sums of the files that it reads) must be equal for a
    run to be resumed.
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, Any],
        inputs: Sums | None = None,
        kind: str = "training",
    ):
        self.folder = out.with_name(f"{out.name}.{kind}")
        self.identity, self.inputs, self.waiting = identity, inputs or {}, False
        self.own = False  # whether the state there is of this run, not of one it replaces

    @property
    def there(self) -> bool:
        return (self.folder / NAME).exists()

    def check_place(self) -> None:
        """Raises Usage where its folder is a link or a file, or where tlm did not write the file
        of the state; NotLoadable where that is no ordinary file."""
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            kind = "a link" if self.folder.is_symlink() else "a file"
            raise Usage(
                f"{self.folder}, where the state of a run is kept, is {kind}: move it away, or "
                "give another --out"
            )
        for file in (self.folder / NAME, self.folder / REPLACED):
            if file.exists() and not _ours(regular(file)):
                raise Usage(
                    f"{file}, where the state of a run is kept, was not written by tlm: move it "
                    "away, or give another --out"
                )

    def save(self, state: dict[str, Any]) -> None:
        """Write a state beside the last one, which it replaces at `keep`. Raises OSError, with the
        file, where there is no room; the last state then stays."""
        file = self.folder / UNFINISHED
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"format": FORMAT, "identity": self.identity, "state": state}
        kept["inputs"] = self.inputs
        try:
            _write(file, kept)
        except BaseException as error:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            if isinstance(error, OSError):  # an error of an open file does not name the file
                raise OSError(error.errno, error.strerror, str(file)) from error
            raise
        self.waiting = True

    def keep(self) -> None:
        """Call it after a step with a finite loss: the state saved last replaces the one before.
        The state of a run that this one replaces is set aside until then."""
        if self.waiting:
            os.replace(self.folder / UNFINISHED, self.folder / NAME)
            self.waiting, self.own = False, True
            (self.folder / REPLACED).unlink(missing_ok=True)
        elif self.there and not self.own:
            os.replace(self.folder / NAME, self.folder / REPLACED)

    def load(self) -> dict[str, Any]:
        """The last state. Raises NotLoadable where it cannot be read, and Usage where it is that of
        another run."""
        file = self.folder / NAME
        kept = _read(file)
        if kept.get("format") != FORMAT:
            raise Usage(
                f"{self.folder} holds a run of another version of tlm, which this one cannot "
                f"resume: {AGAIN}"
            )
        identity, state = kept.get("identity"), kept.get("state")
        if not (isinstance(identity, dict) and isinstance(state, dict)):
            raise NotLoadable(f"{file} holds no state of a run: {AGAIN}")
        identity = current(identity)
        for key in sorted({*map(str, identity), *self.identity}):
            if identity.get(key) != self.identity.get(key):
                raise Usage(
                    f"{self.folder} holds a run with {key} {identity.get(key)!r}, not "
                    f"{self.identity.get(key)!r}: resume with the same recipe, or --overwrite"
                )
        if kept.get("inputs") != self.inputs:
            which = changed(kept.get("inputs"), self.inputs)
            raise Usage(
                f"{which} is not the file that the run in {self.folder} began with: put that back, "
                "or --overwrite starts again"
            )
        self.own = True
        return state

    def remove(self) -> None:
        """Remove the state after the run has ended well. Only the first process calls it."""
        for name in (UNFINISHED, NAME, REPLACED):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds other files too
            self.folder.rmdir()


class _Summed:
    """A file that is written in order, and the sum of its bytes. The checksums that torch writes
    of each tensor are not checked when it reads them."""

    def __init__(self, opened: BinaryIO):
        self.opened, self.sum, self.flush = opened, hashlib.sha256(), opened.flush
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.sum.update(data)
        try:
            return self.opened.write(data)
        except OSError as error:
            self.error = error  # torch raises another error instead, which does not say why
            raise


def _write(file: Path, kept: dict[str, Any]) -> None:
    """Write all of it and its sum, and flush them to the disk. Raises OSError."""
    file.unlink(missing_ok=True)  # a killed run left it, or it is a pipe that would block
    with file.open("xb") as opened:
        summed = _Summed(opened)
        try:
            torch.save(kept, summed)
        except RuntimeError as error:
            raise (summed.error or error) from error
        opened.write(SUM + summed.sum.hexdigest().encode())
        opened.flush()
        os.fsync(opened.fileno())


def _read(file: Path) -> dict[str, Any]:
    """What a state file holds. Raises NotLoadable for a file that has changed since."""
    try:
        with regular(file).open("rb") as opened:
            sums = _sums(opened)
            opened.seek(0)
            if sums and sums[0] != sums[1]:
                raise NotLoadable(
                    f"{file} is damaged, as its bytes are not those that were written: {AGAIN}"
                )
            kept = torch.load(opened, map_location="cpu", weights_only=True)
    except Failure:
        raise
    except Exception as error:  # zip, pickle and torch each raise their own
        raise NotLoadable(f"{file} cannot be read as the state of a run: {AGAIN}") from error
    if not isinstance(kept, dict) or (kept.get("format") == FORMAT and not sums):
        raise NotLoadable(f"{file} is damaged or holds no state of a run: {AGAIN}")
    return kept


def _ours(file: Path) -> bool:
    """Whether tlm wrote a file: it ends with a sum, or holds the parts of a state, as those of
    tlm 0.2.0 do."""
    with file.open("rb") as opened:
        if _written_sum(opened):
            return True
    try:
        kept = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # zip, pickle and torch each raise their own
        return False
    return isinstance(kept, dict) and {"identity", "state"} <= {*kept}


def _written_sum(opened: BinaryIO) -> bytes | None:
    """The sum that is written at the end of a file; None where there is none."""
    opened.seek(max(0, opened.seek(0, os.SEEK_END) - END))
    end = opened.read()
    return end[len(SUM) :] if end.startswith(SUM) and len(end) == END else None


def _sums(opened: BinaryIO) -> tuple[bytes, bytes] | None:
    """(the sum that is written in a file, the sum of its bytes); None where none is written."""
    if (written := _written_sum(opened)) is None:
        return None
    left = opened.tell() - END
    opened.seek(0)
    found = hashlib.sha256()
    while part := opened.read(min(left, 2**20)):
        found.update(part)
        left -= len(part)
    return written, found.hexdigest().encode()
