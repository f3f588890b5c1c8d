"""A copy of a model without its numbers, run to see what it computes."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

FUSED = {"sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}


def shadow(model: nn.Module, device: str | None) -> Any:
    """A copy with modules and config of its own, in evaluation mode.

    Its weights are zero on `device`, or shared where that is None. Zeros on the CPU take no memory
    until they are written. Its attention is eager, so that each of its products can be seen.
    """

    def ghost(tensor: Tensor) -> Tensor:
        if device is None:
            return tensor
        empty = torch.zeros_like(tensor, device=device)
        return nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty

    held = {id(t): ghost(t) for t in [*model.parameters(), *model.buffers()]}  # deepcopy's memo
    made: Any = copy.deepcopy(model, held)
    if getattr(getattr(made, "config", None), "_attn_implementation", None) in FUSED:
        made.set_attn_implementation("eager")
    return made.eval()
