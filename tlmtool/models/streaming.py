"""Weights that stay in their files: the system reads them when a module runs, and frees them after.

Safetensors files are mapped into memory, so a weight takes memory once it is read. Here the pages
that were read are given back after each block. Then a model larger than the memory can run, and
every weight can still be read and replaced as if it were loaded.
"""

import ctypes
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path
from typing import Any
from weakref import WeakSet, ref

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tlmtool.files.scratch import Scratch
from tlmtool.models.weights import ALIGNED, write_tensors

DONTNEED = 4  # MADV_DONTNEED of Linux: the pages of a file leave this process, and can come back
MMAP_THRESHOLD = -3  # of glibc's mallopt: memory of this size goes back as soon as it is freed
PIECE = 2**20  # bytes of it while a model is streamed. glibc raises it to 32 MiB, and what it then
# keeps was 250 MB of 1.3 GB at 8,192 features; a smaller one costs more calls of the system
NAME = "_streamed"  # the attribute under which a model keeps its `Streamed`
SMALL = 2**20  # bytes; smaller tensors are not moved into files
MAPS = Path("/proc/self/maps")  # where Linux says which memory is a file
ROOM = 256 * 2**20  # bytes of weights that stay in memory between blocks: more are read less often

_streams: "WeakSet[Streamed]" = WeakSet()


class Streamed:
    """The weights of one model that lie in mapped files.

    `room`: bytes of files that may stay in memory between two blocks. `folder`: where weights are
    written that change, by default a temporary folder.
    """

    def __init__(self, model: nn.Module, room: int = ROOM, folder: Path | None = None):
        self.room, self._folder = room, folder
        self._storages: list[torch.UntypedStorage] = []  # kept, so that no address is used anew
        self._spans: list[tuple[int, int]] = []
        self._watched: list[tuple[Any, int]] = []  # (reference to a tensor, its version)
        self._files = 0
        self.take(_tensors(model))
        with suppress(OSError, AttributeError):  # the C library is not glibc
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, PIECE)
        vars(model)[NAME] = self
        self._handles = [m.register_forward_hook(self._hook) for m in _stops(model)]
        _streams.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Streamed":
        return self  # a copy of a model that shares its tensors

    def take(self, tensors: Iterable[Tensor]) -> None:
        """Note those of the tensors that lie in mapped files."""
        mapped = _mapped()
        starts = [start for start, _ in mapped]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            start, stop = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
            at = bisect_right(starts, start) - 1
            if at >= 0 and start < stop <= mapped[at][1]:
                self._storages.append(storage)
                self._watched.append((ref(tensor), tensor._version))
                self._spans.append((start, stop))
        self._spans = list(_joined(self._spans))

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a mapped file."""
        start = tensor.data_ptr()
        return any(first <= start < last for first, last in self._spans)

    def give_back(self, room: int = 0) -> None:
        """Free the weights that were read from files, if they take more than `room` bytes."""
        if room and _file_bytes() <= room:
            return
        self._rescue()
        for start, stop in self._spans:
            first, last = -(-start // PAGESIZE) * PAGESIZE, stop // PAGESIZE * PAGESIZE
            if last > first:
                _madvise(first, last - first)

    def settle(self, model: nn.Module) -> None:
        """Write each large parameter that is in no file to one of its own, and free it."""
        if not MAPS.exists():
            return
        for name, tensor in model.named_parameters():
            if tensor.nbytes >= SMALL and not self.holds(tensor):
                self._files += 1
                file = self.folder / f"{self._files}.safetensors"
                write_tensors({name: tensor}, file, align=ALIGNED)
                self.move(model, file)

    def move(self, model: nn.Module, file: Path) -> None:
        """Point parameters of a model at the tensors of a file that hold the same numbers, where
        they are aligned as new tensors are: so that no product changes in its last bits."""
        held = dict(model.named_parameters(remove_duplicate=False))
        for name, found in load_file(file).items():
            tensor = held.get(name)
            same = tensor is not None and (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
            if tensor is not None and same and found.data_ptr() % ALIGNED == 0:
                tensor.data = found
                self.take([tensor])

    @property
    def folder(self) -> Path:
        """Where changed weights are written."""
        if self._folder is None:
            self._temporary = Scratch()
            self._folder = Path(self._temporary.name)
        return self._folder

    def stop(self) -> None:
        """Stream no longer: what is read or changed from now on stays in memory."""
        for handle in self._handles:
            handle.remove()
        self._spans = []
        _streams.discard(self)

    def _hook(self, module: nn.Module, args: Any, output: Any) -> None:
        self.give_back(self.room)

    def _rescue(self) -> None:
        """Take tensors that were changed in place out of their files, which lack the change."""
        for k, (reference, version) in enumerate(self._watched):
            tensor = reference()
            if tensor is not None and tensor._version != version:
                tensor.data = tensor.data.clone()
                self._watched[k] = (lambda: None, 0)


def stream(model: nn.Module, room: int = ROOM, folder: Path | None = None) -> Streamed:
    """Stream the weights of a model that was loaded from safetensors files.

    Those that are in no file, because their dtype was changed or transformers joins them, are
    written to one. They take memory until then.
    """
    made = Streamed(model, room, folder)
    made.settle(model)
    return made


def streamed(model: nn.Module) -> Streamed | None:
    """How a model is streamed; None where it is in memory."""
    return vars(model).get(NAME)


def give_back() -> None:
    """Free all weights that were read from files."""
    for each in list(_streams):
        each.give_back()


def settle(model: nn.Module, file: Path | None = None) -> None:
    """Free the weights of a streamed model that have changed; nothing for a model in memory.

    `file`: holds the changed ones under their names; by default they are written to one.
    """
    if (held := streamed(model)) is None:
        return
    if file is not None:
        held.move(model, file)
    held.settle(model)


def keep_in_memory(model: nn.Module) -> None:
    """Stream a model no longer, because it is trained."""
    if (held := streamed(model)) is not None:
        held.stop()


def _stops(model: nn.Module) -> Iterator[nn.Module]:
    """The modules after which weights are freed: blocks, and large modules outside of blocks."""
    blocks = [block for m in model.modules() if isinstance(m, nn.ModuleList) for block in m]
    within = {id(m) for block in blocks for m in block.modules()}
    inner = {id(m) for block in blocks for m in block.modules() if m is not block}
    yield from (block for block in dict.fromkeys(blocks) if id(block) not in inner)
    for module in model.modules():
        size = sum(t.nbytes for t in module.parameters(recurse=False))
        if id(module) not in within and size >= SMALL:
            yield module


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans in order, those that touch or overlap as one."""
    first: int | None = None
    last = 0
    for start, stop in sorted(spans):
        if first is not None and start > last:
            yield first, last
            first = None
        first, last = (start if first is None else first), max(last, stop)
    if first is not None:
        yield first, last


def _mapped() -> list[tuple[int, int]]:
    """The spans of memory that are files of weights; none where the system does not say."""
    found = []
    with suppress(OSError):
        for line in MAPS.read_text().splitlines():
            if line.endswith(".safetensors"):
                start, stop = line.split(" ", 1)[0].split("-")
                found.append((int(start, 16), int(stop, 16)))
    return found


def _file_bytes() -> int:
    """Bytes of files that are in the memory of this process, libraries included."""
    with suppress(OSError):
        told = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(told.group(1)) if told else 0
    return 0


def _madvise(start: int, size: int) -> None:
    with suppress(OSError, AttributeError):  # another system frees pages of files when it must
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), DONTNEED)
