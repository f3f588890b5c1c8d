"""The headers of files of weights, read without torch and without any number of the weights."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import regular

PACKED, SHAPE = ".weight_packed", ".weight_shape"  # tensors of weights in few bits
LONGEST = 100 * 2**20  # bytes of a header of safetensors; the format allows no more
FEW = 64  # entries of a list in a GGUF file that are kept; longer ones are vocabularies
MOST_TENSORS = 10**6  # of a GGUF file; a damaged one may claim any number
# GGUF: {type of a value: (its layout, its bytes)}; 8 is text, 9 a list
SCALARS = {
    0: ("<B", 1),
    1: ("<b", 1),
    2: ("<H", 2),
    3: ("<h", 2),
    4: ("<I", 4),
    5: ("<i", 4),
    6: ("<f", 4),
    7: ("<?", 1),
    10: ("<Q", 8),
    11: ("<q", 8),
    12: ("<d", 8),
}
TEXT, LIST = 8, 9
KINDS = {  # names of the types of tensors that are common; another one is shown as its number
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16"},
}


class Tensor(NamedTuple):
    """A tensor in a file: its shape, and its number type as the file calls it. `packed`: how many
    weights of few bits lie in it, where they do."""

    shape: tuple[int, ...]
    dtype: str
    packed: int | None = None

    @property
    def numbers(self) -> int:
        """How many numbers it holds as it is stored."""
        return prod(self.shape)


def safetensors_header(file: Path) -> dict[str, Tensor]:
    """{name: tensor} of a safetensors file. Of packed weights their shape is read as well, since
    nothing else says how many there are. Raises NotLoadable for a damaged file."""
    try:
        with regular(file).open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            if size > LONGEST:
                raise ValueError("its header is too long")
            listed: dict[str, Any] = json.loads(opened.read(size))
            listed.pop("__metadata__", None)
            found = {
                name: Tensor(tuple(each["shape"]), str(each["dtype"]))
                for name, each in listed.items()
            }
            for name in [name for name in found if name.endswith(PACKED)]:
                if place := listed.get(name.removesuffix(PACKED) + SHAPE):
                    opened.seek(8 + size + place["data_offsets"][0])
                    sides = struct.unpack("<2q", opened.read(16))
                    found[name] = found[name]._replace(packed=prod(sides))
        return found
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, NotLoadable):
            raise
        raise NotLoadable(f"{file} is damaged or no safetensors file: {error}") from None


def gguf_header(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(metadata, {name: tensor}) of a GGUF file; long lists are left out. Raises NotLoadable for a
    damaged one, and for one of version 1."""
    try:
        with regular(file).open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version, tensors, entries = struct.unpack("<IQQ", opened.read(20))
            if version < 2 or max(tensors, entries) > MOST_TENSORS:
                raise ValueError(f"its version is {version}, with {tensors} tensors")
            pairs = ((_text(opened), _value(opened, _number(opened))) for _ in range(entries))
            metadata = {name: value for name, value in pairs if value is not None}
            return metadata, dict(_tensor(opened) for _ in range(tensors))
    except (OSError, ValueError, struct.error, KeyError, MemoryError, OverflowError) as error:
        if isinstance(error, NotLoadable):
            raise
        raise NotLoadable(f"{file} is damaged or no GGUF file: {error}") from None


def _number(opened: BinaryIO, layout: str = "<I") -> Any:
    (value,) = struct.unpack(layout, opened.read(struct.calcsize(layout)))
    return value


def _text(opened: BinaryIO) -> str:
    length = _number(opened, "<Q")
    if length > LONGEST:
        raise ValueError("a text in it is too long")
    return opened.read(length).decode("utf-8", "replace")


def _value(opened: BinaryIO, kind: int) -> Any:
    """The next value; None for a long list, which is passed over."""
    if kind == TEXT:
        return _text(opened)
    if kind != LIST:
        return _number(opened, SCALARS[kind][0])
    inner, count = _number(opened), _number(opened, "<Q")
    if inner in SCALARS and count > FEW:
        opened.seek(SCALARS[inner][1] * count, 1)
        return None
    if count > LONGEST:
        raise ValueError("a list in it is too long")
    if count > FEW:
        for _ in range(count):
            opened.seek(_number(opened, "<Q"), 1)
        return None
    return [_value(opened, inner) for _ in range(count)]


def _tensor(opened: BinaryIO) -> tuple[str, Tensor]:
    name, sides = _text(opened), _number(opened)
    if sides > 8:
        raise ValueError("a tensor in it has too many sides")
    shape = tuple(_number(opened, "<Q") for _ in range(sides))
    kind = _number(opened)
    opened.seek(8, 1)  # where its numbers begin
    return name, Tensor(shape[::-1], KINDS.get(kind, f"type {kind}"))
