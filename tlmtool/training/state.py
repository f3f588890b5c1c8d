"""The state of a run on disk, whole or not at all, so that a killed run goes on exactly."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tlmtool.failure import NotLoadable, Usage

NAME, UNFINISHED = "state.pt", ".state.pt.unfinished"
REPLACED = "replaced.pt"  # the state of a run that was started again; nothing reads it
FORMAT = 2  # of what is written, raised where a state of before cannot be gone on with


class Store:
    """`<out>.training/state.pt`, there while a run is under way.

    `identity`: what must be equal for one run to go on as another (its recipe and input).
    """

    def __init__(self, out: Path, identity: dict[str, Any]):
        self.folder = out.with_name(f"{out.name}.training")
        self.identity, self.waiting = identity, False
        self.own = False  # whether what is there is of this run, not of one that it replaces

    @property
    def there(self) -> bool:
        return (self.folder / NAME).exists()

    def save(self, state: dict[str, Any]) -> None:
        """Written beside the last state, which it replaces at `keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"format": FORMAT, "identity": self.identity, "state": state}
        torch.save(kept, self.folder / UNFINISHED)
        self.waiting = True

    def keep(self) -> None:
        """A step turned out good: the state saved last replaces the one before, and the one of a
        run that is replaced is none to resume any more, though there until this run has one."""
        if self.waiting:
            os.replace(self.folder / UNFINISHED, self.folder / NAME)
            self.waiting, self.own = False, True
            (self.folder / REPLACED).unlink(missing_ok=True)
        elif self.there and not self.own:
            os.replace(self.folder / NAME, self.folder / REPLACED)

    def load(self) -> dict[str, Any]:
        """The last state; raises NotLoadable if it cannot be read, Usage if it is another run's."""
        file = self.folder / NAME
        try:
            kept = torch.load(file, map_location="cpu", weights_only=True)
            identity, state = kept["identity"], kept["state"]
        except Exception as error:  # zip, pickle and torch each raise their own
            raise NotLoadable(
                f"{file} cannot be read as the state of a run; --overwrite starts again"
            ) from error
        if kept.get("format") != FORMAT:
            raise Usage(
                f"{self.folder} holds a run of another version of tlm, which this one cannot go on "
                "with: --overwrite starts again"
            )
        for key in sorted({*identity, *self.identity}):
            if identity.get(key) != self.identity.get(key):
                raise Usage(
                    f"{self.folder} holds a run with {key} {identity.get(key)!r}, not "
                    f"{self.identity.get(key)!r}: resume with the same recipe, or --overwrite"
                )
        self.own = True
        return state

    def remove(self) -> None:
        """Gone: the run has ended well. By the first process alone."""
        for name in (UNFINISHED, NAME, REPLACED):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # somebody keeps something else in it
            self.folder.rmdir()
