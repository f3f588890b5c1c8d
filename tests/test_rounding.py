"""Weights at few bits obey their laws, and the package that packs them reads the same numbers."""

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from tlmtool.models.packing import PACKED, SCALE, SHAPE, unpacked
from tlmtool.models.rounding import LEAST, MOST, group_of, levels, packed_bytes, rounded

BITS = pytest.mark.parametrize("bits", [8, 4])


def weights(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different sizes; the first begins with zeros."""
    torch.manual_seed(0)
    weight = torch.randn(5, width) * torch.logspace(-2, 1, 5)[:, None]
    weight[0, : width // 2] = 0
    return weight.to(dtype)


@BITS
@pytest.mark.parametrize("width", [128, 96, 73])
def test_a_number_moves_by_half_a_step(bits, width):
    """And by what a product in float16 is off: 2^-11 of the largest number, which is `last` steps.
    A scale in float16 moves the last level by as much."""
    weight, group, last = weights(width), group_of(width, bits), 2 ** (bits - 1) - 1
    near = rounded(weight, bits, group)
    for part, got in zip(weight.split(group, 1), near.split(group, 1), strict=True):
        step = part.abs().amax(1, keepdim=True) / last
        assert ((got - part).abs() <= (0.5 + 2 * last * 2**-11) * step + 2**-20).all()
        assert all(len(row.unique()) <= 2**bits - 1 for row in got)
    assert (near[0, : width // 2] == 0).all() and not torch.equal(near, weight)


@BITS
def test_a_group_divides_its_row(bits):
    for width in range(1, 1025):
        group = group_of(width, bits)
        if group is None:
            several = range(LEAST, min(width, MOST) + 1)
            assert not any(width % size == 0 for size in several)
        else:
            assert width % group == 0
    assert group_of(576, 8) == 64 and group_of(576, 4) == 32 and group_of(152, 8) == 76


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_program_unpacks_the_same_numbers(bits, dtype):
    weight = weights(96, dtype)
    group = group_of(96, bits)
    found = levels(weight, bits, group)
    args = QuantizationArgs(num_bits=bits, strategy="group", group_size=group)
    theirs = BaseCompressor.get_value_from_registry("pack-quantized")
    described = QuantizationScheme(targets=["Linear"], weights=args)
    stored = theirs.compress({"weight": weight.float(), "weight_scale": found.scale}, described)
    parts = {end: stored[f"weight{end}"] for end in (PACKED, SCALE, SHAPE)}
    again = unpacked(*parts.values(), 96)
    assert torch.equal(again.whole, found.whole)
    numbers = theirs.decompress(stored, described)["weight"].to(dtype)
    assert torch.equal(numbers, rounded(weight, bits, group))
    assert sum(part.nbytes for part in parts.values()) == packed_bytes(weight, bits, group)
