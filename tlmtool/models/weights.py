"""The safetensors files of a checkpoint: which they are, what they hold, none of it read."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text, regular
from tlmtool.models.folder import LARGEST, guard, inside

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = ("I64", "I32", "I16")  # of positions and steps, which are no weights
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")  # of a mesh of devices


class Stored(NamedTuple):
    """A tensor in a file: its shape, and its dtype as safetensors calls it."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, as transformers will load them, their headers checked.

    Raises NotLoadable for a pickle, for files that are damaged, not there or outside of the folder,
    and for two sets of weights in one folder."""
    return sorted({folder / name for name in _named(folder)}) if stored(folder) else []


def stored(folder: Path) -> dict[str, Stored]:
    """{name: what the headers of the files say of it}; raises as `weight_files`."""
    found: dict[str, Stored] = {}
    homes: dict[str, Path] = {}
    for name in _named(folder):
        file = folder / name
        if not file.exists():
            raise _missing(folder, file)
        try:
            with safe_open(regular(file), framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118, no dict
                    if key in homes:
                        both = f"{homes[key].name} and {file.name}"
                        raise NotLoadable(f"{folder} holds {key} twice, in {both}")
                    part = opened.get_slice(key)
                    found[key] = Stored(tuple(part.get_shape()), part.get_dtype())
                    homes[key] = file
        except NotLoadable:
            raise
        except (SafetensorError, OSError) as error:
            raise NotLoadable(f"{file} is damaged or no safetensors file: {error}") from None
    for key, name in _index(folder).items():
        if homes.get(key) != folder / name:
            raise NotLoadable(f"{folder / INDEX} says that {name} holds {key}, which it does not")
    return found


def dtypes_of(kept: dict[str, Stored]) -> Counter:
    """{dtype: tensors} of the floating ones, the widest first."""
    found = Counter(FLOATS[each.dtype] for each in kept.values() if each.dtype in FLOATS)
    return Counter({dtype: found[dtype] for dtype in FLOATS.values() if found[dtype]})


def equal(folder: Path, one: tuple[str, ...], other: tuple[str, ...], dtype: torch.dtype) -> bool:
    """Whether two tensors, each known by several names, hold the same numbers in a dtype; False if
    one of them is not there."""
    found: dict[tuple[str, ...], torch.Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            there = set(opened.keys())
            for names in (one, other):
                if name := next((each for each in names if each in there), None):
                    found[names] = opened.get_tensor(name).to(dtype)
    return len(found) == 2 and torch.equal(found[one], found[other])


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with regular(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _named(folder: Path) -> list[str]:
    """Names of the files of weights, in the folder: one, or those of the index of shards."""
    guard(folder)
    odd = next((f for f in sorted(folder.iterdir()) if DISTRIBUTED.match(f.name)), None)
    if odd is not None:
        raise NotLoadable(f"{folder} holds shards of several devices ({odd.name}): save it whole")
    names = sorted({*_index(folder).values()}) or [WHOLE]
    if names != [WHOLE] and (folder / WHOLE).exists():
        raise NotLoadable(
            f"{folder} holds two sets of weights, {WHOLE} and those that {INDEX} names: remove the "
            "one that is out of date"
        )
    return names


def _index(folder: Path) -> dict[str, str]:
    """{tensor: file} as the index of shards says; nothing where there is none."""
    index = folder / INDEX
    try:
        listed = json.loads(read_text(index, LARGEST["*"]))["weight_map"]
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
        outside = Path(name).is_absolute() or ".." in Path(name).parts
        if outside or not inside(folder / name, folder):
            raise NotLoadable(f"{index} names {name!r}, which lies outside of the folder")
    return names


def _missing(folder: Path, file: Path) -> NotLoadable:
    """What to say of a file of weights that is not there."""
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    if pickles:
        return NotLoadable(
            f"{folder} holds its weights as a pickle ({pickles[0].name}), which can run "
            "code when opened; save it as safetensors first"
        )
    return NotLoadable(f"{folder} has no {file.name}")
