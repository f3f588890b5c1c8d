"""Narrower models as plain checkpoints of their family: one width, and no need of tlm."""

import copy
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tlmtool.decompositions.narrow import KEPT
from tlmtool.models.factorized import Factorized, set_weight
from tlmtool.models.modeling import merge
from tlmtool.models.neurons import Mlp
from tlmtool.models.surgery import factorize, factorized, replace_module

TOGETHER = 2  # keys of a config that are changed at once, as where encoder and decoder have one
# each; more of them take longer


def width_keys(model: PreTrainedModel, mlps: list[Mlp], width: int) -> tuple[str, ...]:
    """The keys of config.json that give these MLPs another width, and change nothing else.

    The model is on the meta device. Keys that say the width of the MLPs, or nothing, are tried: a
    model is built with them, and has to have the sizes of the narrower one. Raises ValueError if
    none does.
    """
    before = {mlp.width for mlp in mlps}
    narrower = copy.deepcopy(model)
    for mlp in mlps:
        factorize(narrower, dict(mlp.cut(model, width)))
    wanted = _sizes(thin(narrower))
    for keys in _candidates(model.config.to_dict(), before):
        try:
            found = _sizes(_built(model, keys, width))
        except Exception:  # a model's own code raises errors of many kinds
            continue
        if found == wanted:
            return keys
    raise ValueError(
        f"no key of config.json gives the MLPs of {type(model).__name__} the width {width}"
    )


def _candidates(config: dict[str, Any], before: set[int]) -> Iterator[tuple[str, ...]]:
    """Keys to try: first those that say one of the widths, then several, then keys without any."""
    named = [k for k, value in config.items() if type(value) is int and value in before]
    for count in range(1, TOGETHER + 1):
        yield from combinations(named, count)
    yield from ((key,) for key, value in config.items() if value is None)


def _built(model: PreTrainedModel, keys: tuple[str, ...], width: int) -> PreTrainedModel:
    """An empty model like this one, with these keys changed."""
    config = copy.deepcopy(model.config)
    for key in keys:
        setattr(config, key, width)
    with torch.device("meta"):
        made: PreTrainedModel = type(model)(config)
    return made


def _sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def thin(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the factors of narrower MLPs by linears of their size, in place."""
    for _, module in list(factorized(model)):
        if KEPT in module.factors:
            replace_module(model, module, _linear(module))
    return model


def _linear(module: Factorized) -> nn.Module:
    """The linear, as its family has it, that computes what a module of a narrower MLP does."""
    dense: Any = module.dense
    factor, bias = module.factors[KEPT], module.bias_parameter()
    set_weight(dense.to(factor.dtype), factor.detach())
    dense.weight.requires_grad_(factor.requires_grad)
    if bias is not None:
        dense.bias = bias
    if isinstance(dense, Conv1D):
        dense.nf, dense.nx = factor.shape
    else:
        dense.out_features, dense.in_features = factor.shape
    return dense.train(module.training)


def make_plain(model: PreTrainedModel, keys: tuple[str, ...], width: int) -> PreTrainedModel:
    """Turn a model whose MLPs all have one width into a plain one of its family, in place.

    `keys`: those of `width_keys`. Returns a second model of the new config that shares all numbers,
    so that it can be compared.
    """
    merge(thin(model))
    for key in keys:
        setattr(model.config, key, width)
    again = _built(model, (), width)
    again.load_state_dict(model.state_dict(), strict=True, assign=True)
    buffers = dict(model.named_buffers())
    for name, buffer in list(again.named_buffers()):
        if buffer.is_meta:  # one that no checkpoint holds
            holder, _, last = name.rpartition(".")
            _give(again.get_submodule(holder), last, buffers[name])
    return again.eval()


def _give(module: nn.Module, name: str, buffer: Tensor) -> None:
    module._buffers[name] = buffer
