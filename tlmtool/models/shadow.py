"""A copy of a model without its numbers, run to see what it computes."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

FUSED = {"sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}


def nothing(shape: Iterable[int], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros that share one number, to be read and never written."""
    return torch.zeros((), dtype=dtype, device=device).expand(*shape)


def shadow(model: nn.Module, device: str | None, held: bool = True) -> Any:
    """A copy with modules and config of its own, in evaluation mode.

    Its weights are zero on `device`, or shared where that is None. Where they are not `held`, they
    take no memory, and products make copies of them. Its attention is eager, so that each of its
    products can be seen.
    """

    def ghost(tensor: Tensor) -> Tensor:
        if device is None:
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return torch.zeros_like(tensor, device=device)
        if held:
            return nn.Parameter(torch.zeros_like(tensor, device=device), False)
        return nn.Parameter(nothing(tensor.shape, tensor.dtype, device), False)

    memo = {id(t): ghost(t) for t in [*model.parameters(), *model.buffers()]}  # deepcopy's memo
    made: Any = copy.deepcopy(model, memo)
    if getattr(getattr(made, "config", None), "_attn_implementation", None) in FUSED:
        made.set_attn_implementation("eager")
    return made.eval()
