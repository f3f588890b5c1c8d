"""The optimizer of a variant of over-parameterized training (gain_variants.py).

What `tlm finetune` has no option for is done here by hooks on its optimizer.
"""

from typing import Any

import torch
from gain_variants import Variant
from torch import Tensor
from torch.nn import Parameter

from tlmtool.decompositions.mpo import MPO
from tlmtool.training.expansion import Expansion
from tlmtool.training.optimizing import Optimizer, direction

GAUGES = {  # powers of the singular values in the first core, in each unit core, in the last core
    "left": lambda k: (0.0, 0.0, 1.0),
    "right": lambda k: (1.0, 0.0, 0.0),
    "even": lambda k: (1 / (k + 2),) * 3,
    "middle": lambda k: (0.0, 1 / k, 0.0),
}


def orthogonal(m: Tensor, rounds: int = 5) -> Tensor:
    """Approximately U V^T of a matrix, by the Newton-Schulz iteration of Muon (Jordan 2024)."""
    x = m / m.norm().clamp_min(1e-12)
    x = x.mT if (tall := m.shape[0] > m.shape[1]) else x
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def orthogonalized(g: Tensor) -> Tensor:
    """A core's gradient (d, i, j, e), made orthogonal as (d i j, e) or (d, i j e), of RMS 1."""
    d, e = g.shape[0], g.shape[-1]
    m = orthogonal(g.reshape(d, -1) if d > e else g.reshape(-1, e))
    return m.reshape(g.shape) * max(m.shape) ** 0.5


def regauge(made: Expansion, powers: tuple[float, float, float]) -> None:
    """Spreads the singular values over the cores by their powers. W stays the same."""
    cores = list(made.cores.values())
    roots = cores[0].detach().flatten(0, 2).norm(dim=0).clamp_min(1e-6)  # (R,)
    first, unit, last = powers
    with torch.no_grad():
        cores[0].mul_(roots ** (2 * first - 1))
        cores[-1].mul_(roots[:, None, None, None] ** (2 * last - 1))
        for core in cores[1:-1]:
            core.mul_(roots ** (2 * unit))
    made.rebuild()


def grams(cores: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """For each core the Gram matrices of what stands left (d, d) and right (e, e) of it."""
    left, right = [torch.ones(1, 1)], [torch.ones(1, 1)]
    for core in cores[:-1]:
        x = torch.tensordot(left[-1], core, 1)  # (d, i, j, e)
        left.append(torch.tensordot(core, x, ([0, 1, 2], [0, 1, 2])))
    for core in cores[:0:-1]:
        x = torch.tensordot(core, right[-1], 1)
        right.append(torch.tensordot(core, x, ([1, 2, 3], [1, 2, 3])))
    return list(zip(left, right[::-1], strict=True))


def solved(gram: Tensor, x: Tensor) -> Tensor:
    damped = gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.cholesky_solve(x, torch.linalg.cholesky(damped))


class Varied(Optimizer):
    """tlm's optimizer with the gauges, rates and updates of a variant."""

    def __init__(self, variant: Variant, *given: Any):
        super().__init__(*given)
        self.variant = variant
        self.shares: dict[int, float] = {}  # of its step that each core takes
        self.before: dict[int, Tensor] = {}
        self.momentum: dict[int, Tensor] = {}
        if not variant.strategy:
            for i, group in enumerate(self.adam.param_groups):
                if "site" in group:
                    self._scale(i, variant.rate)
        self.adam.register_step_pre_hook(self._keep)
        self.adam.register_step_post_hook(self._change)

    def _scale(self, index: int, by: float) -> None:
        group = self.adam.param_groups[index]
        for key in ("lr", "initial_lr"):
            group[key] *= by
        self.schedule.base_lrs[index] *= by

    def take(self, expansion: Expansion, match: bool, project: bool) -> None:
        """As in tlm, but the matched rate is measured on the step that the variant makes."""
        variant, names = self.variant, list(expansion.cores)
        if variant.update == "reset":
            expansion.decomposition = MPO(order=1)
            alone = expansion.decomposition.decompose(expansion.built.detach())
            expansion.cores = {name: Parameter(core.clone()) for name, core in alone.items()}
            expansion.rebuild()
            names = list(expansion.cores)
        if variant.gauge != "balanced":
            regauge(expansion, GAUGES[variant.gauge](len(names) - 2))
        super().take(expansion, False, project)
        cores, dense = list(expansion.cores.values()), expansion.gradient()
        found = torch.autograd.grad(expansion.built, cores, dense, retain_graph=True)
        state = self.adam.state
        adam = [direction(g, state.get(c, {})) for c, g in zip(cores, found, strict=True)]
        index = self.group_of(expansion)[0]
        rate = self.schedule.base_lrs[index]

        def moved(steps: list[Tensor], shares: list[float]) -> float:
            after = [c - rate * s * d for c, s, d in zip(cores, shares, steps, strict=True)]
            with torch.no_grad():
                w = expansion.decomposition.reconstruct(dict(zip(names, after, strict=True)))
                return float((w - expansion.built).norm())

        ones, k = [1.0] * len(cores), len(cores)
        target = moved(adam, ones) / expansion.ratio  # how far Adam on W itself would move W
        steps = adam
        if variant.update == "muon":
            steps = [orthogonalized(g) for g in found]
        elif variant.update == "scaled":
            scaled = self._preconditioned(cores, list(found))
            steps = [direction(g, {}) for g in scaled]
        units = [0.0 < i < k - 1 for i in range(k)]
        shares = {"all": ones, "units": [float(u) for u in units]}
        shares["ends"] = [float(not u) for u in units]
        if variant.moves == "equal":
            alone = [moved(steps, [float(i == j) for j in range(k)]) for i in range(k)]
            shares["equal"] = [target / max(a, 1e-12) for a in alone]
        chosen = shares[variant.moves]
        self.shares |= {id(c): s for c, s in zip(cores, chosen, strict=True)}
        expansion.ratio = moved(steps, chosen) / target / variant.rate
        group = self.adam.param_groups[index]
        group["ratio"] = expansion.ratio
        self._scale(index, 1 / expansion.ratio)

    def _preconditioned(self, cores: list[Tensor], found: list[Tensor]) -> list[Tensor]:
        changed = []
        for g, (left, right) in zip(found, grams([c.detach() for c in cores]), strict=True):
            g = solved(left, g.reshape(len(left), -1)).reshape(g.shape)
            changed.append(solved(right, g.reshape(-1, len(right)).mT).mT.reshape(g.shape))
        return changed

    def _keep(self, *_: Any) -> None:
        for each in self.expansions:
            cores = list(each.cores.values())
            if self.variant.update == "scaled":
                changed = self._preconditioned(cores, [c.grad for c in cores])
                for core, gradient in zip(cores, changed, strict=True):
                    core.grad = gradient
            if self.variant.update == "muon" or self.variant.moves != "all":
                self.before |= {id(c): c.detach().clone() for c in cores}

    @torch.no_grad()
    def _change(self, *_: Any) -> None:
        if not self.before:
            return
        for each in self.expansions:
            lr = self.group_of(each)[1]["lr"]
            for core in each.cores.values():
                before, share = self.before[id(core)], self.shares[id(core)]
                if self.variant.update == "muon":
                    kept = self.momentum.setdefault(id(core), torch.zeros_like(core))
                    kept.mul_(0.9).add_(core.grad)
                    m = orthogonalized(core.grad + 0.9 * kept)
                    core.copy_(before - lr * share * m)
                else:
                    core.lerp_(before, 1 - share)

    def release(self) -> None:
        """Merges each expanded W and trains it as dense, with moments from zero."""
        for each in self.expansions:
            index, group = self.group_of(each)
            each.weight.data.copy_(each.product().T if each.turned else each.product())
            for core in group["params"]:
                self.adam.state.pop(core, None)
            self._scale(index, group.pop("ratio"))
            group |= {"params": [each.weight], "weight_decay": self.decay}
        self.expansions = []
