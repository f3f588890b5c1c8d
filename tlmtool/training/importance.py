"""How much each matrix matters to the loss, and which ones are over-parameterized."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Scores:
    """The importance I_W of each weight, added up over steps (`add`) or measured at once
    (`zero_out`).

    `taylor`: |sum dL/dW o W| (Gao et al. 2023, OPF, eq. 7), the first-order estimate of eq. 6.
    `fisher`: sum (dL/dW o W)^2. `zero-out`: |L - L_{W=0}| (eq. 6), on one batch at each selection.
    """

    def __init__(self, kind: str, weights: dict[str, nn.Parameter]):
        self.kind, self.weights = kind, weights
        self.values = dict.fromkeys(weights, 0.0)

    def add(self) -> None:
        """Add the gradients of a step, after its backward pass; zero-out needs none."""
        if self.kind == "zero-out":
            return
        for site, weight in self.weights.items():
            if weight.grad is not None:
                self.values[site] += contribution(self.kind, weight.grad, weight.detach())

    @torch.no_grad()
    def zero_out(self, loss: Callable[[], float]) -> None:
        """Measure |L - L_{W=0}| of each weight, with one evaluation of the loss for each."""
        whole = loss()
        for site, weight in self.weights.items():
            kept = weight.detach().clone()
            weight.zero_()
            self.values[site] = abs(loss() - whole)
            weight.copy_(kept)

    def clear(self) -> None:
        self.values = dict.fromkeys(self.values, 0.0)


def contribution(kind: str, gradient: Tensor, weight: Tensor) -> float:
    """What one step adds to the importance of a weight."""
    product = gradient.float() * weight.float()
    return float(product.sum().abs() if kind == "taylor" else product.square().sum())


def chosen(
    scores: dict[str, float], roles: dict[str, str], taken: set[str], n: int, most: int
) -> list[str]:
    """The `n` most important sites of each group that are not `taken` yet; each role is a group.
    No group gets more than `most` in all. The earlier of two equal sites comes first."""
    groups: dict[str, list[str]] = {}
    for site in scores:
        groups.setdefault(roles[site], []).append(site)
    found = []
    for group in groups.values():
        free = sorted((s for s in group if s not in taken), key=lambda s: -scores[s])
        room = most - sum(site in taken for site in group)
        found += free[: max(0, min(n, room))]
    return found
