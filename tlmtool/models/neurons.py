"""The MLPs of a model whose inner neurons can be left out one by one, found by trying it."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tlmtool.decompositions.narrow import Narrow
from tlmtool.models.factorized import (
    Factorized,
    FactorizedLinear,
    bias_of,
    dense_weight,
    set_weight,
    shape,
)
from tlmtool.models.flow import short_texts
from tlmtool.models.roles import FFN, roles_of
from tlmtool.models.shadow import nothing, shadow
from tlmtool.models.surgery import replace_module


class Mlp(NamedTuple):
    """The linears of an MLP: `firsts` give its inner neurons (gate and up), and `down` reads them.
    `width`: how many neurons there are."""

    firsts: tuple[str, ...]
    down: str
    width: int

    @property
    def sites(self) -> tuple[str, ...]:
        """All of its linears, in the order in which the model runs them."""
        return (*self.firsts, self.down)

    def cut(self, model: Any, width: int) -> dict[str, Narrow]:
        """{site: decomposition} that keeps so many neurons."""
        found = {s: self._first(model, s, width) for s in self.firsts}
        return found | {self.down: Narrow(width, "in", 1, self.width)}

    def _first(self, model: Any, site: str, width: int) -> Narrow:
        parts = shape(model.base_model.get_submodule(site))[0] // self.width
        return Narrow(width, "out", parts, self.width)

    def sort(self, model: Any, order: Tensor) -> None:
        """Put the neurons of the firsts into a new order (I,), in place. `down` stays as it is."""
        for site in self.firsts:
            module = model.base_model.get_submodule(site)
            weight, bias = dense_weight(module), bias_of(module)
            starts = torch.arange(0, weight.shape[0], self.width, device=order.device)
            rows = (starts[:, None] + order).flatten().to(weight.device)
            set_weight(module, weight[rows])
            if bias is not None:
                module.bias = nn.Parameter(bias.detach()[rows], bias.requires_grad)


def mlps_of(model: Any) -> dict[str, Mlp]:
    """{down: its MLP} of every dense MLP whose linears are known, whether it can be cut or not."""
    base, roles = model.base_model, roles_of(model)
    found = {}
    for down, firsts in roles.mlps.items():
        mlp = Mlp(tuple(firsts), down, shape(base.get_submodule(down))[1])
        dense = not any(isinstance(base.get_submodule(s), Factorized) for s in mlp.sites)
        if dense and all(roles.of.get(site) in FFN for site in mlp.sites):
            found[down] = mlp
    return found


def separable(model: Any, mlps: Iterable[Mlp]) -> dict[str, Mlp]:
    """{down: MLP} of those in which a neuron does not depend on the others of its MLP.

    Between its linears a norm over the neurons would join them, for example. Copies without numbers
    are run: whole, and with half of the neurons. The linears that give the neurons are replaced by
    random numbers, the same in both. Then what `down` reads must be the same for the half.
    """
    mlps = [mlp for mlp in mlps if mlp.width > 1]
    if not mlps:
        return {}
    try:
        whole = _read(model, mlps, cut=False)
        half = _read(model, mlps, cut=True)
    except Exception:  # a model's own code raises errors of many kinds
        if len(mlps) == 1:
            return {}
        middle = len(mlps) // 2  # some of them can be cut, perhaps
        return separable(model, mlps[:middle]) | separable(model, mlps[middle:])
    found = {}
    for mlp in mlps:
        read, left = whole.get(mlp.down), half.get(mlp.down)
        if read is None or left is None:
            continue
        if torch.allclose(read[..., : left.shape[-1]], left):
            found[mlp.down] = mlp
    return found


def _read(model: Any, mlps: list[Mlp], cut: bool) -> dict[str, Tensor]:
    """{down: what it reads}, in a copy of the base model whose weights are zero."""
    ghost = shadow(model.base_model, "cpu", held=False)
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack, torch.no_grad(), torch.device("cpu"):
        for k, mlp in enumerate(mlps):
            plan = mlp.cut(ghost, mlp.width // 2) if cut else {}
            for j, site in enumerate(mlp.firsts):
                draw = torch.Generator("cpu").manual_seed(1000 * k + j)
                module = ghost.get_submodule(site)
                row = torch.randn(shape(module)[0], generator=draw)
                row = plan[site].cut(row) if cut else row
                if cut:
                    module = _narrow(ghost, site, plan[site])
                stack.callback(module.register_forward_hook(_giving(row)).remove)
            down = ghost.get_submodule(mlp.down)
            if cut:
                down = _narrow(ghost, mlp.down, plan[mlp.down])
            stack.callback(down.register_forward_pre_hook(_seeing(seen, mlp.down)).remove)
        ghost(**short_texts(ghost, "cpu", True))
    return seen


def _narrow(ghost: Any, site: str, taken: Narrow) -> nn.Module:
    """Put a module of fewer neurons, zeros as well, in the place of a linear."""
    dense = ghost.get_submodule(site)
    sizes = taken.shapes(*shape(dense))
    tensors = {k: nothing(s, dense.weight.dtype, "cpu") for k, s in sizes.items()}
    made = FactorizedLinear(taken, dense, tensors)
    replace_module(ghost, dense, made)
    return made


def _giving(row: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return row.to(output.dtype).expand(*output.shape[:-1], -1).clone()

    return hook


def _seeing(seen: dict[str, Tensor], site: str) -> Any:
    def hook(module: nn.Module, args: tuple) -> None:
        seen[site] = args[0].detach().clone()

    return hook
