"""A weight at 8 or 4 bits: each group of its numbers at the nearest of a few levels."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

GROUPS = {8: 64, 4: 32}  # {bits: numbers of a row that share a scale}; fewer are more exact and
# take more bytes: a scale has 16 bits
LEAST = 16  # a row of fewer numbers is not rounded: its scales would take too large a share
MOST = 128  # numbers that share a scale where no group of about the usual size divides a row
PACKED, SCALE, SHAPE = "_packed", "_scale", "_shape"  # what ends the names of stored tensors
SMALLEST = 2.0**-24  # of float16, and the smallest scale: a group of zeros needs one too


class Levels(NamedTuple):
    """A rounded weight (O, I): whole numbers (O, I) in int8, and a scale for each group of a row
    (O, I / group)."""

    whole: Tensor
    scale: Tensor

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """The weight (O, I) as floats: each whole number times its scale."""
        groups = self.whole.unflatten(1, (self.scale.shape[1], -1)).to(self.scale.dtype)
        return (groups * self.scale.unsqueeze(-1)).flatten(1).to(dtype)


def group_of(width: int, bits: int) -> int | None:
    """How many of the numbers in a row of this width share a scale; None for a row that is too
    narrow, or that no such group divides. It is the divisor that is nearest to the usual size."""
    if width < LEAST:
        return None
    usual = GROUPS[bits]
    sizes = [n for n in range(LEAST, min(width, MOST) + 1) if width % n == 0]
    return min(sizes, key=lambda n: (abs(n - usual), n)) if sizes else None


def step_of(highest: int, bits: int | None, group: int = LEAST) -> int:
    """Ranks or widths below `highest` that are multiples of this can be stored in `bits`, in groups
    of `group` numbers, or of a half, a quarter ... where so many are coarse; 1 where any will do.
    """
    while 2 * group > highest:
        group //= 2
    return 1 if bits is None or group < LEAST else group


def width_step(width: int, bits: int | None) -> int:
    """As `step_of`, for the neurons of an MLP: also where all weights have groups of one size."""
    return step_of(width, bits, GROUPS[bits or 8])


def levels(weight: Tensor, bits: int, group: int) -> Levels:
    """A weight (O, I), rounded to the nearest of 2^bits - 1 levels around 0.

    The largest number of a group is the last level. Scales are bfloat16 for a weight in bfloat16,
    else float16.
    """
    last = 2 ** (bits - 1) - 1
    kept = torch.bfloat16 if weight.dtype == torch.bfloat16 else torch.float16
    groups = weight.detach().float().unflatten(1, (-1, group))
    scale = (groups.abs().amax(-1) / last).clamp_min(SMALLEST).to(kept)
    whole = (groups / scale.float().unsqueeze(-1)).round().clamp(-last, last)
    return Levels(whole.flatten(1).to(torch.int8), scale)


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """A weight (O, I) at the nearest of its levels, in its own dtype."""
    return levels(weight, bits, group).numbers(weight.dtype)


def packed_shapes(weight: Tensor, bits: int, group: int) -> dict[str, tuple[tuple[int, ...], int]]:
    """{what ends its name: (shape, bytes of a number)} of the tensors that a weight (O, I) is
    stored as: whole numbers packed by the row in int32, scales, and the shape in int64."""
    rows, width = weight.shape
    words = -(-width * bits // 32)
    return {PACKED: ((rows, words), 4), SCALE: ((rows, width // group), 2), SHAPE: ((2,), 8)}


def packed_bytes(weight: Tensor, bits: int, group: int) -> int:
    """Bytes in a file of a weight (O, I) that is stored in few bits."""
    return sum(prod(shape) * size for shape, size in packed_shapes(weight, bits, group).values())
