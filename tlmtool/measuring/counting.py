"""What can be counted of a model without running it: parameters by role, and FLOPs.

Models, training steps and kernels share one convention of FLOPs (`CONVENTION`). A multiply-add is 2
FLOPs, and matrix products and convolutions alone count, however they are computed. Products that a
mask hides count too, so that causal softmax attention has all N x N pairs.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.failure import Usage
from tlmtool.measuring.inputs import name_of, takes
from tlmtool.measuring.outputs import kernel_length, position_limit
from tlmtool.models.shadow import shadow

OTHER, SCORES = "other", "attention scores"
PROJECTIONS = {"query", "key", "value", "qkv"}  # a module that holds one computes attention scores
CONVENTION = (
    "1 multiply-add = 2 FLOPs, matrix products and convolutions only, products that a mask hides "
    "included"
)


def count_parameters(model: nn.Module) -> int:
    """The number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """The bytes of the parameters; tied ones count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def parameters_by_role(model: nn.Module, roles: dict[str, str]) -> dict[str, int]:
    """Parameters of each role, with `other` for the rest; they add up to `count_parameters`.

    `roles` is keyed by module, named relative to the model or to its `base_model`. A tied parameter
    counts once, for the first role that holds it.
    """
    counts: Counter[str] = Counter()
    seen: set[int] = set()
    placed = _placed(model, roles)
    for module, role in [*placed.items(), (model, OTHER)]:
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                counts[role] += parameter.numel()
    return dict(counts)


def _placed(model: nn.Module, roles: dict[str, str]) -> dict[nn.Module, str]:
    """{module: role}; raises Usage for a name that the model does not have."""
    base, modules = getattr(model, "base_model", model), dict(model.named_modules())
    within = dict(base.named_modules())
    if missing := [name for name in roles if name not in within and name not in modules]:
        raise Usage(f"{name_of(model)} has no module {missing[0]}")
    return {within.get(name, modules.get(name)): role for name, role in roles.items()}


def forward_flops(
    model: nn.Module, seq_len: int, batch: int = 1, roles: dict[str, str] | None = None
) -> dict[str, Any]:
    """{"total", "by_part"}: FLOPs of one forward pass, counted on the meta device without weights.

    Parts are the roles, `attention scores` and `other` (embeddings, heads); they add up to the
    total. `attention scores` are the products of a module that holds a query, key, value or qkv
    site; a kernel that replaces softmax attention counts its own. The decoder of an encoder-decoder
    gets the same length. Raises Usage for a length beyond the position table.
    """
    check_length(model, seq_len)
    # Values cannot be read on meta. Encoders read a mask, decoders read values where there is no
    # mask, and heads that look for the end token read in any case: those are run on the CPU.
    run_on = "cpu" if next(model.parameters()).is_meta else None
    for device, mask in (("meta", True), ("meta", False), (run_on, True)):
        try:
            return _counted(shadow(model, device), seq_len, batch, roles or {}, mask)
        except ValueError as error:
            raise Usage(f"{name_of(model)} cannot run a batch of {batch}: {error}") from error
        except (NotImplementedError, RuntimeError):
            if device != "meta":
                raise
    raise AssertionError("unreachable")


def check_length(model: nn.Module, seq_len: int) -> None:
    """Raises Usage where an input of this length does not fit the position table."""
    limit = position_limit(model)
    if seq_len < 1 or (limit is not None and seq_len > limit):
        has = "at least 1 is needed" if seq_len < 1 else f"{name_of(model)} has {limit} positions"
        if seq_len > 0 and limit == kernel_length(model):
            has = f"the attention of {name_of(model)} is built for {limit} tokens"
        raise Usage(f"sequence length {seq_len} is not possible: {has}")


@torch.no_grad()
def _counted(
    ghost: nn.Module, seq_len: int, batch: int, roles: dict[str, str], mask: bool
) -> dict[str, Any]:
    """FLOPs of each part. What a module spends beyond its children goes to its nearest part."""
    parts, placed = {ghost: OTHER}, _placed(ghost, roles)
    for module in ghost.modules():
        holds = {placed.get(child) for child in module.children()} & PROJECTIONS
        own = placed.get(module) or (SCORES if holds else None)
        parts[module] = own or parts[module]
        for child in module.children():  # parents come first; a part reaches down to its next part
            parts.setdefault(child, OTHER if parts[module] == SCORES else parts[module])
    by_part: Counter[str] = Counter()
    running: list[list[int]] = []  # [total on entry, spent by children]

    def enter(module: nn.Module, _: Any) -> None:
        running.append([counter.get_total_flops(), 0])

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        start, inside = running.pop()
        spent = counter.get_total_flops() - start
        by_part[parts[module]] += spent - inside
        if running:
            running[-1][1] += spent

    for module in ghost.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    inputs, calls = example_of(ghost, seq_len, batch), []
    if not mask:
        del inputs["attention_mask"]
    with FlopCounterMode(display=False) as counter:
        for module in (each for each in ghost.modules() if hasattr(each, "mixing")):
            module.mixing = _Watched(module.mixing, parts[module], counter, calls)
        ghost(**inputs)
    for kernel, part, shape, causal, seen in calls:
        by_part[part] += kernel.flops(*shape, causal) - seen
    return {"total": sum(by_part.values()), "by_part": {k: v for k, v in by_part.items() if v}}


class _Watched:
    """A kernel whose calls are noted: (kernel, part, (B, H, N, D, F), causal, FLOPs seen).
    The counter sees a convolution only where matrix products do it."""

    def __init__(self, kernel: Any, part: str, counter: FlopCounterMode, calls: list):
        self.kernel, self.part, self.counter, self.calls = kernel, part, counter, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def apply(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Any, real: Any, causal: bool
    ) -> Tensor:
        before = self.counter.get_total_flops()
        out = self.kernel.apply(q, k, v, tensors, real, causal)
        seen = self.counter.get_total_flops() - before
        self.calls.append((self.kernel, self.part, (*q.shape, out.shape[-1]), causal, seen))
        return out


def example_of(model: Any, seq_len: int, batch: int, seed: int | None = None) -> dict[str, Any]:
    """Inputs (B, N) for one forward pass on the model's device: rows with one end token each. The
    rows are equal, or have random tokens where there is a seed."""
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    if seed is None:
        ids = (torch.arange(seq_len) % min(7, vocabulary)).expand(batch, -1).contiguous()
    else:
        drawn = torch.Generator().manual_seed(seed)
        ids = torch.randint(vocabulary, (batch, seq_len), generator=drawn)
    end = getattr(model.config, "eos_token_id", None)
    if isinstance(end, int) and end < vocabulary:
        ids = ids.masked_fill(ids == end, (end + 1) % 2)
        ids[:, -1] = end
    ids = ids.to(device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if takes(model, "decoder_input_ids"):
        inputs["decoder_input_ids"] = ids
    return inputs | ({"use_cache": False} if takes(model, "use_cache") else {})
