"""Attention modules whose mixing is a kernel's: the family's own modules, their form kept.

A family's attention module looks its mixing function up by the name in its config. A converted
module gets a config of its own that names ours, and becomes a subclass that hands the cache over,
so that everything else (projections, rotary angles, masks, residuals) stays the family's. A kernel
with an output map of its own takes the place of the output projection, whose bias stays.
"""

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from tlmtool.attention import Attention
from tlmtool.models.architectures import ATTENTION, architecture
from tlmtool.models.factorized import Factorized, Store, bias_of, shape
from tlmtool.models.states import StateLayer, layer_of

NAME = "tlm"
HEADS = ("num_attention_heads", "num_heads", "n_heads")  # what families call H,
WIDTH = ("attention_head_size", "head_dim")  # D,
WHOLE = ("all_head_size", "split_size")  # and H D
ROTARY = "position_embeddings"  # what a family hands to a module that turns q and k by position


class OutputBias(nn.Module):
    """What is left of an output projection where a kernel has an output map of its own."""

    def __init__(self, dense: nn.Module):
        super().__init__()
        self.bias, self.out_features = bias_of(dense), shape(dense)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E)"""
        return x if self.bias is None else x + self.bias


@lru_cache
def attending(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a family's attention module that hands its layer of the cache on."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        index = getattr(self, "layer_idx", None)
        kwargs["tlm_layer"] = None
        if (cache := kwargs.get("past_key_values")) is not None and index is not None:
            kwargs["tlm_layer"] = layer_of(cache, index)
        return base.forward(self, hidden_states, *args, **kwargs)

    made = type(f"Tlm{base.__name__}", (base,), {"__module__": __name__, "forward": forward})
    globals()[made.__name__] = made  # so that it can be pickled
    return made


def mix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tlm_layer: StateLayer | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers' attention interface calls: (B, H, N, D) -> (B, N, 1, F)."""
    heads, n = query.shape[1], query.shape[2]
    if key.shape[1] != heads:
        key, value = (t.repeat_interleave(heads // t.shape[1], 1) for t in (key, value))
    tensors, start = module.kernel(), None if tlm_layer is None else tlm_layer.seen - n
    real = real_of(attention_mask, n, start)
    if tlm_layer is None:
        mixed = module.mixing.apply(query, key, value, tensors, real, bool(module.is_causal))
    else:
        mixed = tlm_layer.stream(module.mixing, (query, key, value), tensors, real)
    return mixed[:, :, None], None


def real_of(mask: Tensor | None, n: int, start: int | None = None) -> Tensor | None:
    """(B, N), which of N tokens from `start` on (None: the last) are no padding, out of any mask
    that transformers makes: (B, M), or (B, 1, N, M), boolean or added to scores. A token that no
    query sees is padding. The mask of a cache of fixed length goes on behind the last token."""
    if mask is None:
        return None
    if mask.ndim == 4:
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        mask = seen[:, 0].any(1)
    start = mask.shape[1] - n if start is None else min(start, mask.shape[1] - n)
    return mask[:, start : start + n].bool()


def take_over(model: PreTrainedModel, cache: Cache) -> bool:
    """The layers of a cache that belong to kernels hold their states from now on; whether any."""
    causal = [m for _, m in converted(model.base_model) if m.is_causal]
    taken = [m.layer_idx for m in causal if getattr(m, "layer_idx", None) is not None]
    return any([layer_of(cache, index) for index in taken])


AttentionInterface.register(NAME, mix)


def converted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of every attention module that a kernel mixes in."""
    return ((path, m) for path, m in model.named_modules() if hasattr(m, "mixing"))


def mixing(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Every converted attention module, and its output projection or what is left of it."""
    for path, module in converted(model.base_model):
        yield module
        yield model.base_model.get_submodule(projections(model, path)["output"])


def attention_sites(model: PreTrainedModel) -> list[str]:
    """Paths, below the base model, of the self-attention modules that a kernel can take over, in
    the model's order. Raises ValueError for a family that has none, saying why."""
    row, kind = architecture(model.config.model_type), model.config.model_type
    if row.refuses:
        raise ValueError(f"a {kind} keeps softmax attention: {row.refuses}")
    found = [path for path, _ in model.base_model.named_modules() if row.attends(path)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no attention where the table has it")
    return found


def heads_of(module: nn.Module) -> tuple[int, int]:
    """(H, D) of an attention module; some families leave H to the config."""
    places = (module, module.config)
    found = [
        next(getattr(p, n) for p in places for n in names if hasattr(p, n))
        for names in (HEADS, WIDTH)
    ]
    return found[0], found[1]


def projections(model: PreTrainedModel, path: str) -> dict[str, str]:
    """{role: site} of the linears of the attention module at `path`, its output included."""
    row, base = architecture(model.config.model_type), model.base_model
    found: dict[str, str] = {}
    for start in (path, path.rpartition(".")[0]):  # some families keep the output beside it
        for name, _ in base.get_submodule(start).named_modules():
            if (role := row.role_of(f"{start}.{name}")) in ATTENTION:
                found.setdefault(role, f"{start}.{name}")
    return found


def attend(model: PreTrainedModel, plan: dict[str, Attention], fitted: bool = False) -> None:
    """Softmax attention -> kernels, in place, at the attention modules of the plan; learned tensors
    as the kernel starts them (`fitted`: for an output map that will be). Also on the meta device:
    sizes only.

    Raises ValueError where the module cannot take the kernel.
    """
    known = set(attention_sites(model)) if plan else set()
    for path, form in plan.items():
        if path not in known:
            raise ValueError(f"{path} is no self-attention of {type(model).__name__}")
        _attend(model, path, form, fitted)


def why_not(module: nn.Module) -> str | None:
    """Why a self-attention module of a family that takes kernels takes none; None where it does."""
    if hasattr(module, "mixing"):
        return f"has {module.mixing.name} attention already"
    window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    longest = getattr(module.config, "max_position_embeddings", None)
    if window is not None and (longest is None or window < longest):
        return f"sees the last {window} tokens alone, and a kernel has no such window"
    return None


def _attend(model: PreTrainedModel, path: str, form: Attention, fitted: bool) -> None:
    base = model.base_model
    module, linears = base.get_submodule(path), projections(model, path)
    if module.is_causal and not form.causal:
        choices = ", ".join(f"{k} {v}" for k, v in form.to_dict().items() if k != "name")
        raise ValueError(
            f"{path} must not see later tokens, and {form.name} of {choices} cannot be causal"
        )
    (heads, width), wanted = heads_of(module), form.heads(*heads_of(module))
    inputs = {role: site for role, site in linears.items() if role != "output"}
    if wanted != (heads, width):
        _resize(base, path, inputs, wanted)
    first = next(base.get_submodule(inputs[role]) for role in ("qkv", "query") if role in inputs)
    output = base.get_submodule(linears["output"])
    features = shape(output)[0]
    weight = next(first.parameters())
    made = {"device": weight.device, "dtype": weight.dtype}
    if weight.is_meta:
        tensors = {k: torch.empty(s, **made) for k, s in form.shapes(*wanted, features).items()}
    else:
        drawn = form.initial(*wanted, features, fitted)
        tensors = {k: t.to(**made) for k, t in drawn.items()}
    module.kernel = Store({k: nn.Parameter(t) for k, t in tensors.items()})
    module.mixing, module.config = form, copy.copy(module.config)
    module.config._attn_implementation_internal = NAME
    module.__class__ = attending(type(module))
    outs = form.out_features(*wanted, features)
    if form.own_output:
        base.set_submodule(linears["output"], OutputBias(output))
    elif outs != shape(output)[1]:
        base.set_submodule(linears["output"], _resized(output, None, outs))


def _resize(base: nn.Module, path: str, inputs: dict[str, str], wanted: tuple[int, int]) -> None:
    """New projections of P blocks of rank R."""
    module, (heads, width) = base.get_submodule(path), wanted
    old = heads_of(module)
    if ROTARY in module.forward.__code__.co_varnames:
        raise ValueError(
            f"{path} turns q and k by position, for which it must keep its {old[0]} heads of width "
            f"{old[1]}: it cannot have blocks {heads}, rank {width}"
        )
    for role, site in inputs.items():
        size = (3 if role == "qkv" else 1) * heads * width
        base.set_submodule(site, _resized(base.get_submodule(site), size))
    for names, value in ((HEADS, heads), (WIDTH, width), (WHOLE, heads * width)):
        for name in (n for n in names if hasattr(module, n)):
            setattr(module, name, value)


def _resized(old: nn.Module, out_features: int | None, in_features: int | None = None) -> nn.Module:
    """A new dense linear of the same kind, of other sizes."""
    o, i = shape(old)
    o, i = out_features or o, in_features or i
    held, bias = next(old.parameters()), bias_of(old) is not None
    kind = old.form[0] if isinstance(old, Factorized) else old
    with held.device:
        made = Conv1D(o, i) if isinstance(kind, Conv1D) else nn.Linear(i, o, bias=bias)
    if not held.is_meta:
        nn.init.normal_(made.weight, std=i**-0.5)
        if bias:
            nn.init.zeros_(made.bias)
    return made.to(held.dtype).train(old.training)
