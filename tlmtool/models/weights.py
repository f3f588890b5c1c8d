"""The safetensors files of a checkpoint: which they are and what their headers say."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text, regular
from tlmtool.models.guarding import OTHER, inside, leads_out
from tlmtool.models.pickles import PICKLES, conversion

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# The dtypes that weights may have, the widest first.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = ("I64", "I32", "I16")  # dtypes of positions and steps, which are no weights
# What safetensors calls the dtypes that are written, in the order in which it stores tensors.
WRITTEN = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
PACKED, FOUR_BITS = ".weight_packed", 8  # of 4 bits, 8 weights lie in an int32; of 8 bits, 4
ALIGNED = 64  # bytes; torch gives a new tensor an address of this kind, and last bits depend on it
# Files that transformers writes for a mesh of devices, each with a part of every tensor.
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


class Stored(NamedTuple):
    """A tensor in a file: its shape, and its dtype as safetensors calls it. `packed`: how many
    weights lie in each of its numbers."""

    shape: tuple[int, ...]
    dtype: str
    packed: int = 1

    @property
    def numbers(self) -> int:
        """How many weights it holds, at most."""
        return self.packed * torch.Size(self.shape).numel()


def headers(folder: Path) -> tuple[list[Path], dict[str, Stored]]:
    """(the files of weights that transformers will load, {name: shape and dtype} of their tensors).

    Raises NotLoadable for a pickle, for files that are missing, damaged or outside of the folder,
    for a wrong index of shards, and for two sets of weights.
    """
    index = _index(folder)
    files = [folder / name for name in _names(folder, index)]
    found: dict[str, Stored] = {}
    homes: dict[str, Path] = {}
    for file in files:
        for key, each in _header(folder, file).items():
            if key in homes:
                both = f"{homes[key].name} and {file.name}"
                raise NotLoadable(f"{folder} holds {key} twice, in {both}")
            found[key], homes[key] = each, file
    for key, name in index.items():
        if homes.get(key) != folder / name:
            raise NotLoadable(f"{folder / INDEX} says that {name} holds {key}, which it does not")
    return files, found


def _header(folder: Path, file: Path) -> dict[str, Stored]:
    """{name: shape and dtype} of the tensors in one file."""
    if not file.exists():
        raise _missing(folder, file)
    found = {}
    try:
        with safe_open(regular(file), framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118, no dict
                part = opened.get_slice(key)
                packed = FOUR_BITS if key.endswith(PACKED) else 1
                found[key] = Stored(tuple(part.get_shape()), part.get_dtype(), packed)
    except NotLoadable:
        raise
    except (SafetensorError, OSError) as error:
        raise NotLoadable(f"{file} is damaged or no safetensors file: {error}") from None
    return found


def dtypes_of(kept: dict[str, Stored]) -> "Counter[torch.dtype]":
    """{dtype: number of tensors} of the floating-point ones, the widest first."""
    found = Counter(FLOATS[each.dtype] for each in kept.values() if each.dtype in FLOATS)
    return Counter({dtype: found[dtype] for dtype in FLOATS.values() if found[dtype]})


def equal(
    files: list[Path], one: tuple[str, ...], other: tuple[str, ...], dtype: torch.dtype
) -> bool:
    """Whether two tensors, each known by several names, hold the same numbers in a dtype; False
    where one of them is missing."""
    found: dict[tuple[str, ...], torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            there = set(opened.keys())
            for names in (one, other):
                if name := next((each for each in names if each in there), None):
                    found[names] = opened.get_tensor(name).to(dtype)
    return len(found) == 2 and torch.equal(found[one], found[other])


def write_tensors(
    tensors: Mapping[str, torch.Tensor],
    file: Path,
    metadata: Mapping[str, str] | None = None,
    align: int = 8,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Write a safetensors file one tensor at a time, byte for byte as `safetensors.torch.save_file`
    does, which reads all of them first. The numbers start at a multiple of `align` bytes, which is
    8 for safetensors. `after` is called after each tensor."""
    kinds = list(WRITTEN)
    order = sorted(tensors, key=lambda name: (kinds.index(tensors[name].dtype), name))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        tensor = tensors[name]
        stop = start + tensor.nbytes
        kind = {"dtype": WRITTEN[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = kind | {"data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % align)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            whole = tensors[name].detach().cpu().contiguous()
            opened.write(whole.view(-1).view(torch.uint8).numpy().data)
            after()


def _names(folder: Path, index: dict[str, str]) -> list[str]:
    """Names of the files of weights in the folder: one file, or those of the index of shards."""
    odd = next((f for f in sorted(folder.iterdir()) if DISTRIBUTED.match(f.name)), None)
    if odd is not None:
        raise NotLoadable(f"{folder} holds shards of several devices ({odd.name}): save it whole")
    names = sorted({*index.values()}) or [WHOLE]
    if names != [WHOLE] and (folder / WHOLE).exists():
        raise NotLoadable(
            f"{folder} holds two sets of weights, {WHOLE} and those that {INDEX} names: remove the "
            "one that is out of date"
        )
    return names


def _index(folder: Path) -> dict[str, str]:
    """{tensor: file} by the index of shards; empty where there is no index."""
    index = folder / INDEX
    try:
        listed = json.loads(read_text(index, OTHER))["weight_map"]
        names = {str(name): file for name, file in listed.items()}
    except FileNotFoundError:
        return {}
    except NotLoadable:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise NotLoadable(f"{index} is not an index of shards: {error}") from None
    for name in names.values():
        if not isinstance(name, str) or Path(name).suffix != ".safetensors":
            raise NotLoadable(f"{index} names {name!r}, which is no safetensors file")
        if leads_out(name) or not inside(folder / name, folder):
            raise NotLoadable(f"{index} names {name!r}, which lies outside of the folder")
    return names


def _missing(folder: Path, file: Path) -> NotLoadable:
    """The failure for a file of weights that is missing."""
    found = next((pattern for pattern in PICKLES if any(folder.glob(pattern))), None)
    if found is None:
        return NotLoadable(f"{folder} has no {file.name}")
    name = min(folder.glob(found)).name
    return NotLoadable(
        f"{folder} holds its weights as a pickle ({name}), which can run code when it is opened: "
        f"in that folder, convert it with {conversion(found)}"
    )
