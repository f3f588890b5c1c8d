"""The journal of a compression on disk, so that a run that was killed goes on to the same weights.

While a model is compressed, `<out>.compressing/` holds:

    state.pt                the identity of the run and the files that it reads, its plan, and for
                            each finished group its sites, its file, the sha256 of that file and the
                            records of its sites; a group that it does not list is not finished
    group-0000.safetensors  the tensors of the first group, and so on

A group is an embedding, or the sites that read one input and are fitted together; groups stand in
the order in which they are fitted. A file holds all tensors of its sites as the model holds them:
factors, the weights of sites that stay dense, and biases. They have their own dtype and their names
in the state dict of the finished model; of tensors that modules share, the name at the site.
"""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from safetensors import safe_open
from torch import Tensor

from tlmtool.data.fingerprints import Sums
from tlmtool.data.state import AGAIN, Store
from tlmtool.failure import NotLoadable, Usage
from tlmtool.files.kept import Kept
from tlmtool.files.reading import regular, sha256
from tlmtool.models.weights import ALIGNED, write_tensors

log = logging.getLogger("tlmtool")
KIND = "compressing"  # ends the name of the folder, and marks our files in their metadata
NAME = re.compile(r"\.?group-\d{4,}\.safetensors(\.unfinished)?")


class Group(NamedTuple):
    """A finished group: its sites, the file of its tensors, and a record of each factorized site.

    Its fields are plain values, as the state keeps them.
    """

    sites: list[str]
    file: str
    sha256: str
    records: list[dict[str, Any]]


class _Group(Kept, allow_inf_nan=True):
    sites: list[str]
    file: str
    sha256: str
    records: list[dict[str, Any]]


class _State(Kept):
    plan: dict[str, Any]
    groups: list[_Group]


class Journal:
    """The plan and the finished groups of a compression into `out`.

    `identity` and `inputs` are those of a `Store`: a run goes on only where both are equal. Call
    `resume` to take up what lies there, otherwise `begin`, then `write` after each group, and
    `remove` once the checkpoint is written.
    """

    def __init__(self, out: Path, identity: dict[str, Any], inputs: Sums | None = None):
        self.store = Store(out, identity, inputs, KIND)
        self.plan: dict[str, Any] | None = None  # plain values; None before there is a plan
        self.groups: list[Group] = []

    @property
    def folder(self) -> Path:
        """`<out>.compressing`."""
        return self.store.folder

    @property
    def there(self) -> bool:
        """Whether the folder holds the state of a run."""
        return self.store.there

    @property
    def done(self) -> set[str]:
        """The sites of all finished groups."""
        return {site for group in self.groups for site in group.sites}

    def check_place(self) -> None:
        """Raises Usage where the folder is a link or a file, or holds files in the place of ours
        that tlm did not write."""
        self.store.check_place()
        for file in self._files() if not self.there else ():
            if not file.name.startswith(".") and not _ours(file):
                raise Usage(
                    f"{file}, where finished groups are kept, was not written by tlm: move it "
                    "away, or give another --out"
                )

    def resume(self) -> None:
        """Take up the plan and the groups that lie there. What follows a damaged file is dropped,
        as if the run had been killed before.

        Raises Usage where it is the state of another run, NotLoadable where it cannot be read."""
        kept = self.store.load()
        try:
            TypeAdapter(_State).validate_python(kept)
        except ValueError as error:
            raise self.misfit() from error
        self.plan, self.groups = kept["plan"], []
        for each in (Group(**group) for group in kept["groups"]):
            file = self.folder / each.file
            if not NAME.fullmatch(each.file) or not _intact(file, each.sha256):
                log.warning("%s is missing or damaged: the run goes on from before it", file)
                break
            self.groups.append(each)

    def begin(self, plan: dict[str, Any]) -> None:
        """Note the plan of a run that starts. What another run left there is removed."""
        self.plan, self.groups = plan, []
        self._note()
        self._sweep()

    def write(
        self, sites: list[str], tensors: dict[str, Tensor], records: list[dict[str, Any]]
    ) -> None:
        """Note that a group is finished, and keep its tensors. Raises OSError where there is no
        room; the groups before it then stay."""
        name = f"group-{len(self.groups):04}.safetensors"
        file, begun = self.folder / name, self.folder / f".{name}.unfinished"
        held = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
        try:
            write_tensors(held, begun, {"format": "pt", "tlm": KIND}, ALIGNED)
            with begun.open("rb") as opened:
                os.fsync(opened.fileno())
            found = sha256(begun)
            os.replace(begun, file)
        finally:
            begun.unlink(missing_ok=True)
        self.groups.append(Group(list(sites), name, found, records))
        self._note()

    def file_of(self, group: int) -> Path:
        """The file of a finished group."""
        return self.folder / self.groups[group].file

    def tensors_of(self, group: int) -> dict[str, Tensor]:
        """{name in the state dict: tensor} of a finished group, on the CPU.

        Each has memory of its own, aligned like any new tensor, because the last bits of a product
        can depend on that."""
        with safe_open(self.file_of(group), "pt") as opened:
            return {key: opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118

    def misfit(self) -> NotLoadable:
        """The failure of a state that this run cannot have written."""
        return NotLoadable(f"the state in {self.folder} does not fit this run: {AGAIN}")

    def remove(self) -> None:
        """Remove all of it after the run has ended well."""
        self.plan, self.groups = None, []
        self._sweep()
        self.store.remove()

    def _note(self) -> None:
        groups = [group._asdict() for group in self.groups]
        self.store.save({"plan": self.plan, "groups": groups})
        self.store.keep()

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(each for each in self.folder.iterdir() if NAME.fullmatch(each.name))

    def _sweep(self) -> None:
        """Remove files of groups that are not finished groups of this run."""
        for file in {*self._files()} - {self.folder / group.file for group in self.groups}:
            file.unlink(missing_ok=True)


def _intact(file: Path, wanted: str) -> bool:
    """Whether a file has the sum that was noted."""
    with suppress(OSError):
        return sha256(file) == wanted
    return False


def _ours(file: Path) -> bool:
    """Whether tlm wrote a file of tensors. Raises NotLoadable for what is no ordinary file."""
    try:
        with safe_open(regular(file), "pt") as opened:
            return (opened.metadata() or {}).get("tlm") == KIND
    except NotLoadable:
        raise
    except Exception:  # safetensors raises errors of its own
        return False
