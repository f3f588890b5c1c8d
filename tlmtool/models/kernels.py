"""What runs inside an attention module that mixes tokens by a kernel instead of softmax.

A family's attention module finds its mixing function by a name in its config. A converted module
has a config of its own with our name in it, and a class that passes its layer of the cache on.
Everything else stays the family's: projections, rotary angles, masks, residuals.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache

from tlmtool.models.states import Given, StateLayer, layer_of

NAME = "tlm"  # of our mixing function, in transformers' attention interface

PACKED = (
    "an attention kernel reads one text a row, and got several texts in one row, as packing or "
    "generate_batch makes them: pad the texts to one length instead, or call generate"
)
_made: dict[Any, type[Any]] = {}  # {a family's attention class: our subclass}


def attending(base: type[Any]) -> type[Any]:
    """The subclass of a family's attention module that passes its layer of the cache on."""
    if base not in _made:
        _made[base] = _attending(base)
    return _made[base]


def _attending(base: type[Any]) -> type[Any]:
    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        index = getattr(self, "layer_idx", None)
        kwargs["tlm_layer"] = None
        if (cache := kwargs.get("past_key_values")) is not None and index is not None:
            kwargs["tlm_layer"] = layer_of(cache, index)
        return base.forward(self, hidden_states, *args, **kwargs)

    made = type(f"Tlm{base.__name__}", (base,), {"__module__": __name__, "forward": forward})
    globals()[made.__name__] = made  # so that it can be pickled
    return made


def mix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    tlm_layer: StateLayer | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers' attention interface calls: (B, H, N, D) -> (B, N, 1, F).

    Raises ValueError for several texts in one row.
    """
    if cu_seq_lens_q is not None:
        raise ValueError(PACKED)
    heads, n = query.shape[1], query.shape[2]
    if key.shape[1] != heads:
        key, value = (t.repeat_interleave(heads // t.shape[1], 1) for t in (key, value))
    tensors, start = module.kernel(), None if tlm_layer is None else tlm_layer.seen - n
    real = real_of(attention_mask, n, start)
    if tlm_layer is None:
        mixed = module.mixing.apply(query, key, value, tensors, real, bool(module.is_causal))
    else:
        mixed = tlm_layer.stream(module.mixing, Given((query, key, value), tensors, real))
    return mixed[:, :, None], None


def real_of(mask: Tensor | BlockMask | None, n: int, start: int | None = None) -> Tensor | None:
    """(B, N): which of N tokens are no padding, read from any mask that transformers makes.

    The mask is (B, M), or (B, 1, N, M), which is boolean, added to scores, or a function of
    positions, as flex attention takes it. A token that no query
    sees is padding. The N tokens begin at `start`, by default so that they are the last ones. The
    mask of a cache of fixed length extends beyond the last token. Raises ValueError where a token
    does not see the one before it, since that belongs to another text.
    """
    if mask is None:
        return None
    seen: Tensor | None = None
    if isinstance(mask, BlockMask):
        rows, _, n_queries, keys = mask.shape
        device = mask.kv_num_blocks.device
        mask = create_mask(mask.mask_mod, rows, 1, n_queries, keys, device=str(device))
    if mask.ndim == 4:
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        mask = seen[:, 0].any(1)
    start = mask.shape[1] - n if start is None else min(start, mask.shape[1] - n)
    if seen is not None and n > 1 and _has_numbers(mask) and _packed(seen[:, 0], mask, start):
        raise ValueError(PACKED)
    return mask[:, start : start + n].bool()


def _packed(seen: Tensor, real: Tensor, start: int) -> bool:
    """Whether a token does not see the one before it, though neither is padding. `seen`: (B, N, M);
    `real`: (B, M). A window of attention sees it, so it does not count."""
    places = torch.arange(max(start, 1), start + seen.shape[1], device=seen.device)
    neighbours = real[:, places] & real[:, places - 1]
    return bool((neighbours & ~seen[:, places - start, places - 1]).any())


def one_text_a_row(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a model that packs texts, which raises ValueError where the model has kernels."""

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any(converted(self)):
            raise ValueError(PACKED)
        return method(self, *args, **kwargs)

    return called


def _has_numbers(mask: Tensor) -> bool:
    """Whether a decision may depend on the values of a mask: not while a graph is traced."""
    traced = is_compiling() or type(mask) is not Tensor or mask.is_meta
    return not traced and not (mask.is_cuda and torch.cuda.is_current_stream_capturing())


def converted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(path, module) of every attention module that mixes by a kernel."""
    return ((path, m) for path, m in model.named_modules() if hasattr(m, "mixing"))


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Inside, all kernels are off: learned tensors are 0, but for those of a local mixer."""
    kept = [
        (parameter, parameter.detach().clone())
        for _, module in converted(model)
        for name, parameter in module.kernel.named_parameters()
        if name not in module.mixing.local
    ]
    with torch.no_grad():
        for parameter, _ in kept:
            parameter.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def take_over(model: PreTrainedModel, cache: Cache) -> bool:
    """Make the layers of a cache that belong to kernels hold their states; whether any does."""
    causal = [m for _, m in converted(model.base_model) if m.is_causal]
    taken = [m.layer_idx for m in causal if getattr(m, "layer_idx", None) is not None]
    return any([layer_of(cache, index) for index in taken])


AttentionInterface.register(NAME, mix)
