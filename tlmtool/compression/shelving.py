"""Activations in memory, or on disk once they take more than their part of the memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from tlmtool.files.scratch import Scratch
from tlmtool.models.weights import ALIGNED, write_tensors

HOLDERS = 8  # rows and shelves that there are at once; each may take this part of the memory
_limit: ContextVar[float] = ContextVar("_limit", default=inf)  # bytes of all activations


@contextmanager
def limited(size: int | None) -> Iterator[None]:
    """Inside, activations take at most about this many bytes of memory; None for no limit."""
    token = _limit.set(inf if size is None else size)
    try:
        yield
    finally:
        _limit.reset(token)


def room() -> float:
    """The bytes that one of the holders of activations may take."""
    return _limit.get() / HOLDERS


class Disk:
    """A temporary folder of tensors; it is removed when nothing refers to it any more."""

    def __init__(self) -> None:
        self.folder = Scratch()
        self.count = 0

    def put(self, values: list[Tensor]) -> Path:
        """Write tensors; returns their file."""
        file = Path(self.folder.name) / f"{self.count}.safetensors"
        write_tensors({f"{k:06}": value for k, value in enumerate(values)}, file, align=ALIGNED)
        self.count += 1
        return file


def taken_from(file: Path) -> list[Tensor]:
    """The tensors of a file of `Disk`, on the CPU. Each has the alignment of a new tensor, so that
    no product differs in its last bits."""
    found = [value for _, value in sorted(load_file(file).items())]
    return [value if value.data_ptr() % ALIGNED == 0 else value.clone() for value in found]


class _Stored(NamedTuple):
    """A value on disk. `parts`: of each tensor in it the device, everything else as it is."""

    file: Path
    parts: list[Any]
    several: bool

    def read(self) -> Any:
        tensors = iter(taken_from(self.file))
        found = (next(tensors).to(p) if isinstance(p, torch.device) else p for p in self.parts)
        return tuple(found) if self.several else next(found)


class Row:
    """What a module gives for each batch, by place: a tensor, or a tuple that holds some.

    Once it takes more than its `room`, further values go to disk. Those that have a gradient stay.
    """

    def __init__(self) -> None:
        self.room = room()
        self.kept: dict[int, Any] = {}  # a value, or a function that reads it
        self.disk: Disk | None = None

    def __setitem__(self, place: int, value: Any) -> None:
        parts = value if isinstance(value, tuple) else (value,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        self.kept[place] = value
        if any(tensor.requires_grad for tensor in tensors):
            return
        self.room -= sum(tensor.nbytes for tensor in tensors)
        if self.room < 0 and tensors:
            self.disk = self.disk or Disk()
            shell = [part.device if isinstance(part, Tensor) else part for part in parts]
            self.kept[place] = _Stored(self.disk.put(tensors), shell, isinstance(value, tuple))

    def __getitem__(self, place: int) -> Any:
        value = self.kept[place]
        return value.read() if isinstance(value, _Stored) else value

    def __contains__(self, place: int) -> bool:
        return place in self.kept

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Any]:
        """The values in the order of their places."""
        return (self[place] for place in sorted(self.kept))
