"""How many bytes a model takes on disk, before it is written."""

import json
from typing import Any

from torch import Tensor

TYPES = 7  # letters of the longest name that a file of weights has for a number type, F8_E4M3
SIDE = 1000  # sides are written as if they had its digits: a rank that is not known yet may have
START = 128  # bytes that a file begins with, beside a line for each tensor; padding included


def file_bytes(model: Any, shard: int) -> int:
    """The bytes of the safetensors files of a model, which may be without weights.

    The header is counted at its longest, so that the files are no larger, whatever the ranks are.
    `shard`: the most bytes of a file."""
    own = {id(each) for each in model.parameters()}
    buffers = (
        (name, each)
        for name, each in model.state_dict(keep_vars=True).items()
        if id(each) not in own
    )
    tensors = dict(model.named_parameters()) | dict(buffers)  # tied ones are written once
    total = sum(each.nbytes for each in tensors.values())
    header = sum(_line(name, each, len(str(total))) for name, each in tensors.items())
    return total + header + START * (1 + 2 * total // shard)


def _line(name: str, tensor: Tensor, digits: int) -> int:
    """The most bytes that a tensor takes in the header of a file."""
    letters = TYPES if tensor.itemsize == 1 else len("BF16")
    line = {"dtype": "x" * letters, "shape": [max(side, SIDE) for side in tensor.shape]}
    line["data_offsets"] = [10 ** (digits - 1)] * 2
    return len(json.dumps({name: line}, separators=(",", ":")).encode())
