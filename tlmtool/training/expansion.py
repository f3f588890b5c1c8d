"""A weight trained through the cores of an exact decomposition, while the model itself stays dense.

The model computes with W, so that forward, backward, DDP and micro-batches cost what they cost
without expansion. Once a step, dL/dW goes back to the cores, the optimizer moves the cores, and W
is rebuilt from them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tlmtool.decompositions import Decomposition
from tlmtool.models.factorized import Factorized, dense_weight, set_weight
from tlmtool.models.surgery import hold, let_go

State = dict[str, Any]  # of one parameter in AdamW: step, exp_avg, exp_avg_sq


class Expansion:
    """The cores of one weight of a model; W is always equal to reconstruct(cores).

    `ratio`: how far an Adam step on the cores moves W, over how far a step on W itself moves it.
    Both have the same rate and the gradient at expansion. `moves`: {core: norm of its first
    update}. `error`: max |dW| of the expansion.
    """

    def __init__(
        self,
        site: str,
        module: nn.Module,
        decomposition: Decomposition,
        cores: dict[str, Tensor] | None = None,
    ):
        self.site, self.decomposition = site, decomposition
        self.turned = isinstance(module, Conv1D)
        self.weight: nn.Parameter = module.weight
        self.error = 0.0
        if cores is None:
            before = dense_weight(module)
            cores = decomposition.decompose(before)
            self.error = float((decomposition.reconstruct(cores) - before).abs().max())
        self.cores = {name: nn.Parameter(core.detach().clone()) for name, core in cores.items()}
        self.ratio, self.moves, self.first = 1.0, {}, {}
        self.rebuild()

    def rebuild(self, decay: float = 0.0) -> None:
        """W from the cores, with the graph that `pull` goes back through. Before that, W shrinks by
        the share `decay`, of which each end core takes half."""
        if decay:
            ends = list(self.cores.values())
            with torch.no_grad():
                for core in (ends[0], ends[-1]):
                    core.mul_((1 - decay) ** 0.5)
        with torch.enable_grad():
            self.built = self.decomposition.reconstruct(self.cores)  # (O, I)
        with torch.no_grad():
            self.weight.copy_(self.built.T if self.turned else self.built)

    def gradient(self) -> Tensor:
        """dL/dW (O, I) of the last backward pass."""
        found = self.weight.grad
        return found.T if self.turned else found

    def pull(self) -> None:
        """dL/dW becomes the gradients of the cores, and W has no gradient any more."""
        cores = list(self.cores.values())
        found = torch.autograd.grad(self.built, cores, self.gradient().to(self.built.dtype))
        for core, gradient in zip(cores, found, strict=True):
            core.grad = gradient
        self.weight.grad = None

    def squares(self, second: Tensor) -> list[Tensor]:
        """The second moments of each core, from those of dL/dW (O, I): the squared Jacobian of the
        core times them, as if the entries of dL/dW were independent."""
        squared = {
            name: core.detach().square().requires_grad_() for name, core in self.cores.items()
        }
        with torch.enable_grad():
            built = self.decomposition.reconstruct(squared)
        return list(torch.autograd.grad(built, list(squared.values()), second))

    def product(self) -> Tensor:
        """W (O, I), computed from the cores in float64, in the dtype of W."""
        cores = {name: core.detach().double() for name, core in self.cores.items()}
        return self.decomposition.reconstruct(cores).to(self.weight.dtype)


def lifted(model: PreTrainedModel) -> list[Expansion]:
    """Make the sites dense that a checkpoint holds as an exact decomposition; their factors become
    the cores of expansions. Training gives the same result so, and costs less."""
    found = []
    for site, module in list(model.base_model.named_modules()):
        exact = isinstance(module, Factorized) and module.decomposition.rank is None
        if exact and not module.decomposition.chain:
            cores = {name: factor.detach() for name, factor in module.factors.items()}
            dense = let_go(model, site)
            found.append(Expansion(site, dense, module.decomposition, cores))
    return found


def multiply_out(model: PreTrainedModel, expansions: Iterable[Expansion]) -> None:
    """Set each W to the product of its cores; the model has the modules it had before."""
    for each in expansions:
        set_weight(model.base_model.get_submodule(each.site), each.product())


def keep_cores(model: PreTrainedModel, expansions: Iterable[Expansion]) -> None:
    """Make the model hold the cores as factors, as `tlm overparam` does."""
    for each in expansions:
        cores = {name: core.detach() for name, core in each.cores.items()}
        hold(model, each.site, each.decomposition, cores)
