"""Replaces softmax attention by kernels: which modules can take one, and what changes in them.

A kernel with blocks of its own gets new projections. A kernel with an output map of its own
replaces the output projection, whose bias stays.
"""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tlmtool.attention import Attention
from tlmtool.models.architectures import architecture
from tlmtool.models.factorized import Factorized, bias_of, shape
from tlmtool.models.holding import Store, first_of
from tlmtool.models.kernels import NAME, attending, converted

HEADS = ("num_attention_heads", "num_heads", "n_heads")  # names of H in the families' modules,
WIDTH = ("attention_head_size", "head_dim")  # of D,
WHOLE = ("all_head_size", "split_size")  # and of H D
ROTARY = "position_embeddings"  # an argument of modules that rotate q and k by position


class OutputBias(nn.Module):
    """What stays of an output projection when the kernel has an output map of its own."""

    def __init__(self, dense: nn.Module):
        super().__init__()
        self.bias, self.out_features = bias_of(dense), shape(dense)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E)"""
        return x if self.bias is None else x + self.bias


def mixing(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Every converted attention module, each followed by its output projection."""
    for path, module in converted(model.base_model):
        yield module
        yield model.base_model.get_submodule(projections(model, path)["output"])


def attention_sites(model: PreTrainedModel) -> list[str]:
    """Paths, below the base model, of the self-attention modules that can take a kernel, in the
    model's order. Raises ValueError, with the reason, for a family that has none."""
    row, kind = architecture(model.config.model_type), model.config.model_type
    if row.refuses:
        raise ValueError(f"a {kind} keeps softmax attention: {row.refuses}")
    found = [path for path, _ in model.base_model.named_modules() if row.attends(path)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention at {row.attention}, where the table of "
            "families has it"
        )
    return found


def heads_of(module: Any) -> tuple[int, int]:
    """(H, D) of an attention module; some families keep H in its config. Raises ValueError where
    neither holds them under a known name."""
    return _size(module, HEADS), _size(module, WIDTH)


def _size(module: Any, names: tuple[str, ...]) -> int:
    for place in (module, module.config):
        for name in names:
            if hasattr(place, name):
                return getattr(place, name)
    raise ValueError(
        f"neither {type(module).__name__} nor its config has {' or '.join(names)}: add the name to "
        "models/attending.py"
    )


def projections(model: PreTrainedModel, path: str) -> dict[str, str]:
    """{role: site} of the linears of the attention module at `path`, its output included."""
    row, base = architecture(model.config.model_type), model.base_model
    found: dict[str, str] = {}
    for start in (path, path.rpartition(".")[0]):  # some families keep the output beside it
        there = {name for name, _ in base.get_submodule(start).named_modules()}
        for role, name in row.projections.items():
            if name in there:
                found.setdefault(role, f"{start}.{name}")
    return found


def attend(model: PreTrainedModel, plan: dict[str, Attention], fitted: bool = False) -> None:
    """Replace softmax attention by kernels, in place, at the attention modules of the plan.

    Learned tensors begin as the kernel draws them; `fitted` says that an output map will be fitted
    to them. On the meta device it sets sizes only. Raises ValueError where a module cannot take its
    kernel.
    """
    known = set(attention_sites(model)) if plan else set()
    for path, kernel in plan.items():
        if path not in known:
            raise ValueError(f"{path} is no self-attention of {type(model).__name__}")
        _attend(model, path, kernel, fitted)


def why_not(module: Any) -> str | None:
    """Why a self-attention module cannot take a kernel although its family can; None where it
    can."""
    if hasattr(module, "mixing"):
        return f"has {module.mixing.name} attention already"
    window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
    longest = getattr(module.config, "max_position_embeddings", None)
    if window is not None and (longest is None or window < longest):
        return f"sees the last {window} tokens alone, and a kernel has no such window"
    return None


def _attend(model: PreTrainedModel, path: str, kernel: Attention, fitted: bool) -> None:
    base = model.base_model
    module: Any = base.get_submodule(path)
    linears = projections(model, path)
    if module.is_causal and not kernel.causal:
        choices = ", ".join(f"{k} {v}" for k, v in kernel.to_dict().items() if k != "name")
        raise ValueError(
            f"{path} must not see later tokens, and {kernel.name} of {choices} cannot be causal"
        )
    (heads, width), wanted = heads_of(module), kernel.heads(*heads_of(module))
    inputs = {role: site for role, site in linears.items() if role != "output"}
    if wanted != (heads, width):
        _resize(base, path, inputs, wanted)
    output = base.get_submodule(linears["output"])
    features = shape(output)[0]
    like = first_of(base.get_submodule(inputs["qkv" if "qkv" in inputs else "query"]))
    module.kernel = _learned(kernel, (*wanted, features), like, fitted)
    module.mixing, module.config = kernel, copy.copy(module.config)
    module.config._attn_implementation_internal = NAME
    module.__class__ = attending(type(module))
    outs = kernel.out_features(*wanted, features)
    if kernel.own_output:
        base.set_submodule(linears["output"], OutputBias(output))
    elif outs != shape(output)[1]:
        base.set_submodule(linears["output"], _resized(output, None, outs))


def _learned(kernel: Attention, sizes: tuple[int, int, int], like: Tensor, fitted: bool) -> Store:
    """The learned tensors of a kernel of (H, D, E), on the device and of the dtype of `like`."""
    if like.is_meta:
        tensors = {k: like.new_empty(size) for k, size in kernel.shapes(*sizes).items()}
    else:
        drawn = kernel.initial(*sizes, fitted)
        tensors = {k: t.to(like.device, like.dtype) for k, t in drawn.items()}
    return Store({k: nn.Parameter(t) for k, t in tensors.items()})


def _resize(base: nn.Module, path: str, inputs: dict[str, str], wanted: tuple[int, int]) -> None:
    """New projections for P blocks of rank R."""
    module: Any = base.get_submodule(path)
    heads, width = wanted
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
    """A new dense linear of the same kind and of other sizes."""
    o, i = shape(old)
    o, i = out_features or o, in_features or i
    held, bias = first_of(old), bias_of(old) is not None
    kind = old.dense if isinstance(old, Factorized) else old
    with held.device:
        made = Conv1D(o, i) if isinstance(kind, Conv1D) else nn.Linear(i, o, bias=bias)
    if not held.is_meta:
        nn.init.normal_(made.weight, std=i**-0.5)
        if bias:
            nn.init.zeros_(made.bias)
    return made.to(held.dtype).train(old.training)
