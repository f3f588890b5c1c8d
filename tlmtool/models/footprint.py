"""How many bytes a model takes on disk, in floats or in few bits, before it is written."""

import json
from math import prod
from typing import Any

from torch import Tensor

from tlmtool.models.quantizing import HALF, Chosen
from tlmtool.models.rounding import packed_shapes

TYPES = 7  # letters of the longest name that a file of weights has for a number type, F8_E4M3
SIDE = 1000  # sides are written as if they had its digits: a rank that is not known yet may have
START = 128  # bytes that a file begins with, beside a line for each tensor; padding included


def file_bytes(model: Any, shard: int, chosen: Chosen | None = None) -> int:
    """The bytes of the safetensors files of a model, which may be without weights.

    The header is counted at its longest, so that the files are no larger, whatever the ranks are.
    `shard`: the most bytes of a file of floats; `chosen`: the weights that are stored in few bits.
    """
    own = {id(each) for each in model.parameters()}
    buffers = (
        (name, each)
        for name, each in model.state_dict(keep_vars=True).items()
        if id(each) not in own
    )
    tensors = dict(model.named_parameters()) | dict(buffers)  # tied ones are written once
    floats = sum(each.nbytes for each in tensors.values())
    stored = [each for name, held in tensors.items() for each in _stored(name, held, chosen)]
    total = sum(prod(shape) * size for _, shape, size in stored)
    header = sum(_line(*each, len(str(total))) for each in stored)
    return total + header + START * (1 + 2 * floats // shard)


def _stored(
    name: str, held: Tensor, chosen: Chosen | None
) -> list[tuple[str, tuple[int, ...], int]]:
    """(name, shape, bytes of a number) of the tensors that a tensor of the model is stored as."""
    if chosen and (width := chosen.widths.get(name)):
        shapes = packed_shapes(held, *width)
        return [(f"{name}{end}", shape, size) for end, (shape, size) in shapes.items()]
    half = chosen is not None and name in chosen.halves
    return [(name, tuple(held.shape), HALF.itemsize if half else held.itemsize)]


def _line(name: str, shape: tuple[int, ...], size: int, digits: int) -> int:
    """The most bytes that a tensor takes in the header of a file."""
    letters = TYPES if size == 1 else len("BF16")
    line: dict[str, Any] = {"dtype": "x" * letters, "shape": [max(side, SIDE) for side in shape]}
    line["data_offsets"] = [10 ** (digits - 1)] * 2
    return len(json.dumps({name: line}, separators=(",", ":")).encode())
