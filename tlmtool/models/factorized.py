"""Modules that hold a weight as factors, and the one way to ask any linear for its W."""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tlmtool.decompositions import Decomposition


class Store(nn.ParameterDict):
    """Tensors that a module computes with, called for: a tool that keeps weights elsewhere (on a
    disk, in a machine's other memory) brings them when a module that holds them is called."""

    __call__ = nn.Module.__call__  # a ParameterDict refuses

    def forward(self) -> dict[str, Tensor]:
        """{name: tensor}"""
        return dict(self.items())


class Turned(nn.Module):
    """A linear map whose weight (I, O) is held the other way round, without bias."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)"""
        return x @ self.weight


class Factorized(nn.Module):
    """Holds a decomposition and its factors under `weight.<factor>`, and the dense module's form.

    Factors that chain are `nn.Linear` modules (`weight.right`, `weight.left`, the bias in the last
    one), so that tools which look for linears find them.
    """

    def __init__(self, decomposition: Decomposition, dense: nn.Module, factors: dict[str, Tensor]):
        super().__init__()
        self.decomposition = decomposition
        self.out_features, self.in_features = shape(dense)
        again = isinstance(dense, Factorized)  # factors of factors
        bias = bias_of(dense)
        if decomposition.chain:
            links = {name: self._link(name, factors[name]) for name in decomposition.chain}
            links[decomposition.chain[-1]].bias = bias
            self.weight = nn.Sequential(OrderedDict(links))
        else:
            self.weight = Store({k: nn.Parameter(f) for k, f in factors.items()})
            self.register_parameter("bias", bias)
        for factor in self.factors.values():
            factor.requires_grad_(next(dense.parameters()).requires_grad)
        self.form = dense.form if again else (_on_meta(dense),)  # a tuple: not a submodule
        self.train(dense.training)

    def _link(self, name: str, factor: Tensor) -> nn.Module:
        """The module of a factor that chains."""
        with torch.device("meta"):
            link = nn.Linear(factor.shape[1], factor.shape[0], bias=False)
        link.weight = nn.Parameter(factor)
        return link

    @property
    def factors(self) -> dict[str, Tensor]:
        """{factor: tensor}, live."""
        if self.decomposition.chain:
            return {name: link.weight for name, link in self.weight.named_children()}
        return dict(self.weight.items())

    def dense_weight(self) -> Tensor:
        """W (O, I), rebuilt in float64, in the dtype of the factors."""
        factors = self.factors
        w = self.decomposition.reconstruct({k: f.detach().double() for k, f in factors.items()})
        return w.to(next(iter(factors.values())).dtype)

    def bias_parameter(self) -> nn.Parameter | None:
        return self.weight[-1].bias if self.decomposition.chain else self.bias

    def set_bias(self, bias: nn.Parameter | None) -> None:
        (self.weight[-1] if self.decomposition.chain else self).bias = bias

    def extra_repr(self) -> str:
        return f"{self.out_features}, {self.in_features}, {self.decomposition}"


class FactorizedLinear(Factorized):
    """A linear whose weight W (O, I) is held as factors."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)"""
        if self.decomposition.chain:
            return self.weight(x.to(self.weight[0].weight.dtype))
        factors = self.weight()
        y = self.decomposition.apply(x.to(next(iter(factors.values())).dtype), factors)
        return y if self.bias is None else y + self.bias


class FactorizedEmbedding(Factorized):
    """An embedding whose table W (V, E) is left (V, R) right (R, E); rows are looked up in left."""

    def _link(self, name: str, factor: Tensor) -> nn.Module:
        return nn.Embedding(*factor.shape, _weight=factor) if name == "left" else Turned(factor)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., E)"""
        table = self.weight.right(self.weight.left(ids))
        return table * getattr(self.form[0], "embed_scale", 1.0)


def _on_meta(dense: nn.Module) -> nn.Module:
    """The module without its data: what `merge` fills again."""
    memo = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in dense.parameters()}
    return copy.deepcopy(dense, memo)


def shape(module: nn.Module) -> tuple[int, int]:
    """(O, I) of a linear (V, E of an embedding), dense or factorized."""
    if isinstance(module, Factorized):
        return module.out_features, module.in_features
    o, i = module.weight.shape
    return (i, o) if isinstance(module, Conv1D) else (o, i)


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The live bias of a linear, whatever way the module holds it; of an embedding None."""
    if isinstance(module, Factorized):
        return module.bias_parameter()
    return getattr(module, "bias", None)


def dense_weight(module: nn.Module) -> Tensor:
    """W (O, I), whatever way the module holds it."""
    if isinstance(module, Factorized):
        return module.dense_weight()
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def set_weight(module: nn.Module, weight: Tensor) -> None:
    """Give a dense linear the weight W (O, I), as it lays it out, in its dtype."""
    weight = weight.T if isinstance(module, Conv1D) else weight
    weight = weight.to(module.weight.dtype).contiguous()
    module.weight = nn.Parameter(weight, module.weight.requires_grad)
