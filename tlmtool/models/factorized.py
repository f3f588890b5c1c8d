"""Modules that hold a weight as factors, and functions that read the weight of any linear."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tlmtool.decompositions import Decomposition
from tlmtool.models.holding import Chain, Store, Turned, first_of


class Factorized(nn.Module):
    """A decomposition with its factors under `weight.<factor>`; the base of the two modules below.

    Where the decomposition is a chain of matrices, each factor is an `nn.Linear` (`weight.right`,
    `weight.left`) and the last one holds the bias. Tools that look for linears then find them.
    """

    weight: nn.Sequential | Store
    bias: nn.Parameter | None  # where the factors are no chain

    def __init__(self, decomposition: Decomposition, dense: nn.Module, factors: dict[str, Tensor]):
        super().__init__()
        self.decomposition = decomposition
        self.out_features, self.in_features = shape(dense)
        bias = bias_of(dense)
        if decomposition.chain:
            links = {name: self._link(name, factors[name]) for name in decomposition.chain}
            if bias is not None:
                own = nn.Parameter(decomposition.cut(bias.detach()).clone(), bias.requires_grad)
                own = bias if own.shape == bias.shape else own
                links[decomposition.chain[-1]].register_parameter("bias", own)
            self.weight = Chain(OrderedDict(links))
        else:
            self.weight = Store({k: nn.Parameter(f) for k, f in factors.items()})
            self.register_parameter("bias", bias)
        for factor in self.factors.values():
            factor.requires_grad_(first_of(dense).requires_grad)
        # In a tuple, so that torch does not take it for a submodule. Its weight is on "meta".
        self._dense = (dense.dense if isinstance(dense, Factorized) else _on_meta(dense),)
        self.train(dense.training)

    def _link(self, name: str, factor: Tensor) -> nn.Module:
        """The module of one factor of a chain."""
        with torch.device("meta"):
            link = nn.Linear(factor.shape[1], factor.shape[0], bias=False)
        link.weight = nn.Parameter(factor)
        return link

    @property
    def dense(self) -> nn.Module:
        """The dense module that this one stands for, without its numbers."""
        return self._dense[0]

    @property
    def links(self) -> nn.Sequential:
        """The modules of the factors of a chain."""
        assert isinstance(self.weight, nn.Sequential)
        return self.weight

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """{factor: parameter}, the live ones."""
        if isinstance(self.weight, Store):
            return dict(self.weight.items())
        return {name: weight_of(link) for name, link in self.weight.named_children()}

    def dense_weight(self) -> Tensor:
        """W (O, I), rebuilt in float64, in the dtype of the factors."""
        factors = self.factors
        w = self.decomposition.reconstruct({k: f.detach().double() for k, f in factors.items()})
        return w.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the factors."""
        return first_of(self).dtype

    def bias_parameter(self) -> nn.Parameter | None:
        """The bias, wherever it is held."""
        return bias_of(self.links[-1]) if self.decomposition.chain else self.bias

    def dense_bias(self) -> nn.Parameter | None:
        """The bias (O,) of the dense module."""
        bias = self.bias_parameter()
        if bias is None or bias.shape == (self.out_features,):
            return bias
        return nn.Parameter(self.decomposition.pad(bias.detach()), bias.requires_grad)

    def refill(self, decomposition: Decomposition, factors: dict[str, Tensor]) -> None:
        """Hold other factors of a chain, of any rank."""
        chain: Any = self.links
        for name, factor in factors.items():
            link = chain.get_submodule(name)
            link.weight = nn.Parameter(factor, weight_of(link).requires_grad)
            link.out_features, link.in_features = factor.shape
        self.decomposition, chain.ordered = decomposition, False

    def set_bias(self, bias: nn.Parameter | None) -> None:
        """Replace the bias, wherever it is held."""
        holder = self.links[-1] if self.decomposition.chain else self
        holder.register_parameter("bias", bias)

    def extra_repr(self) -> str:
        return f"{self.out_features}, {self.in_features}, {self.decomposition}"


class FactorizedLinear(Factorized):
    """A linear whose weight W (O, I) is held as factors."""

    @property
    def widths(self) -> tuple[int, int]:
        """How many features a call reads and gives; fewer than I and O in a narrower MLP."""
        if not self.decomposition.chain:
            return self.in_features, self.out_features
        links: Any = self.links  # quantized ones still say how wide they are
        return links[0].in_features, links[-1].out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)"""
        weight = self._modules["weight"]  # `self.weight` takes longer, in any module
        if isinstance(weight, Chain):
            return weight.applied(x)
        factors = self.weight()
        y = self.decomposition.apply(x.to(next(iter(factors.values())).dtype), factors)
        return y if self.bias is None else y + self.bias


class FactorizedEmbedding(Factorized):
    """An embedding whose table W (V, E) is left (V, R) times right (R, E); it looks up rows of
    left."""

    def __init__(self, decomposition: Decomposition, dense: nn.Module, factors: dict[str, Tensor]):
        super().__init__(decomposition, dense, factors)
        self.scale, self.rounds = scale_of(dense) or 1.0, "embed_scale" in self.dense._buffers

    def _link(self, name: str, factor: Tensor) -> nn.Module:
        if name != "left":
            return Turned(factor)
        return nn.Embedding(factor.shape[0], factor.shape[1], _weight=factor)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., E)"""
        right, left = self.links[0], self.links[1]  # the order of the chain
        rows = right(left(ids))
        # A table that holds its scale as a tensor rounds it to the dtype of its weight.
        return rows * (rows.new_tensor(self.scale) if self.rounds else self.scale)


def scale_of(table: Any) -> float | None:
    """The number by which an embedding multiplies the rows that it looks up; None where it computes
    anything else."""
    if isinstance(table, FactorizedEmbedding):
        return scale_of(table.dense)
    if type(table).forward is nn.Embedding.forward:
        return 1.0
    tried = copy.copy(table)
    ids = torch.arange(4, device="cpu")  # also where new tensors go to the meta device
    weight = torch.arange(12.0, device="cpu").view(4, 3)
    try:
        scale = float(getattr(table, "scalar_embed_scale", getattr(table, "embed_scale", 1.0)))
        tried._parameters = {"weight": nn.Parameter(weight, False)}
        tried._buffers = dict.fromkeys(table._buffers, torch.tensor(scale, device="cpu"))
        tried.padding_idx = tried.max_norm = None
        with torch.no_grad():
            y = type(table).forward(tried, ids)
    except Exception:  # another module's own code raises errors of many kinds
        return None
    same = isinstance(y, Tensor) and y.shape == weight.shape and torch.allclose(y, weight * scale)
    return scale if same else None


def rescale(dense: nn.Module) -> None:
    """Give an embedding that was kept without numbers its scale, once it has its weight."""
    if "embed_scale" in dense._buffers:
        like = weight_of(dense)
        scale = torch.tensor(scale_of(dense), dtype=like.dtype, device=like.device)
        dense._buffers["embed_scale"] = scale


def _on_meta(dense: nn.Module) -> nn.Module:
    """A copy of the module on the meta device, which `merge` fills again."""
    memo = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in dense.parameters()}
    return copy.deepcopy(dense, memo)


def weight_of(module: nn.Module) -> nn.Parameter:
    """The parameter `weight` of a dense module, as the module lays it out."""
    return module.get_parameter("weight")


def shape(module: nn.Module) -> tuple[int, int]:
    """(O, I) of a linear, (V, E) of an embedding, dense or factorized."""
    if isinstance(module, Factorized):
        return module.out_features, module.in_features
    o, i = weight_of(module).shape
    return (i, o) if isinstance(module, Conv1D) else (o, i)


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The live bias of a linear, dense or factorized; None for one without, and for embeddings."""
    if isinstance(module, Factorized):
        return module.bias_parameter()
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, nn.Parameter) else None


def dense_weight(module: nn.Module) -> Tensor:
    """W (O, I) of a linear or embedding, dense or factorized."""
    if isinstance(module, Factorized):
        return module.dense_weight()
    weight = weight_of(module).detach()
    return weight.T if isinstance(module, Conv1D) else weight


def set_weight(module: nn.Module, weight: Tensor) -> None:
    """Give a dense linear the weight W (O, I), in the module's layout and dtype."""
    weight = weight.T if isinstance(module, Conv1D) else weight
    held = weight_of(module)
    weight = weight.to(held.dtype).contiguous()
    module.weight = nn.Parameter(weight, held.requires_grad)
