"""Matrix product operator (tensor-train matrix): W as a chain of order-4 cores."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import factorized
from tlmtool.decompositions.base import Decomposition


@dataclass(frozen=True)
class MPO(Decomposition):
    """W (I1 .. IK, J1 .. JK) = T_1 .. T_K, T_k (d_{k-1}, i_k, j_k, d_k), d_0 = d_K = 1.

    R caps every inner rank d_k; without one they are full and the form is exact. `modes`
    ((i_1 .. i_K), (j_1 .. j_K)): the sizes that O and I are split into, outputs first; of itself
    `order` balanced factors. Unit sites (i = j = 1) are allowed. Own TT-SVD in balanced gauge
    (tensorly's leaves all of the norm in the last core).
    """

    order: int = 3
    modes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    reference: ClassVar[str] = "Oseledets 2011 (TT-SVD); Gao et al. 2023 (OPF), eq. 1"
    takes_metric: ClassVar[bool] = False

    def _sizes(self, out_features: int, in_features: int) -> tuple[tuple[int, ...], list[int]]:
        if self.order < 1:
            raise ValueError(f"order {self.order} is below 1")
        outs, ins = self.modes or (
            factorized(out_features, self.order),
            factorized(in_features, self.order),
        )
        if prod(outs) != out_features or prod(ins) != in_features or len(outs) != len(ins):
            raise ValueError(
                f"modes {outs} and {ins} do not make a weight ({out_features}, {in_features})"
            )
        sizes = [i * j for i, j in zip(outs, ins, strict=True)]
        full = [min(prod(sizes[:k]), prod(sizes[k:])) for k in range(1, len(sizes))]
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank {self.rank} is below 1")
        if self.rank is not None and self.rank > max(full, default=1):
            raise ValueError(
                f"rank {self.rank} is above {max(full, default=1)}, the largest rank of a weight "
                f"({out_features}, {in_features}) split into {outs} and {ins}"
            )
        return (outs, ins), [1, *(min(b, self.rank or b) for b in full), 1]

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        (outs, ins), ranks = self._sizes(out_features, in_features)
        return {
            f"core{k}": (ranks[k], *ij, ranks[k + 1])
            for k, ij in enumerate(zip(outs, ins, strict=True))
        }

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        shapes = list(self.shapes(*weight.shape).values())
        order = len(shapes)
        rest = weight.reshape(*(x[1] for x in shapes), *(x[2] for x in shapes))
        rest = rest.permute([m for k in range(order) for m in (k, order + k)])
        cores = {}
        for k, (left, i, j, right) in enumerate(shapes[:-1]):
            rest = rest.reshape(left * i * j, -1)
            u, sigma, v = torch.linalg.svd(rest, full_matrices=False)
            half = sigma[:right].clamp_min(0).sqrt()
            cores[f"core{k}"] = (u[:, :right] * half).reshape(left, i, j, right)
            rest = half[:, None] * v[:right]
        cores[f"core{order - 1}"] = rest.reshape(shapes[-1])
        return cores

    def reconstruct(self, factors: dict[str, Tensor]) -> Tensor:
        cores = list(factors.values())
        w = cores[0]  # (1, O so far, I so far, d)
        for core in cores[1:]:
            w = torch.tensordot(w, core, 1)  # (1, o, i, i_k, j_k, d)
            w = w.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return w[0, ..., 0]

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        cores = list(factors.values())
        tokens, (through, dense) = x.numel() // x.shape[-1], _costs(cores)
        if tokens * through >= dense + tokens * prod([c.shape[1] * c.shape[2] for c in cores]):
            return x @ self.reconstruct(factors).mT
        ins = [c.shape[2] for c in cores]
        y = x.reshape(tokens, 1, 1, -1)  # (B, O so far, d, I left)
        for k, core in enumerate(cores):
            y = y.unflatten(3, (ins[k], -1))
            y = torch.einsum("noajr,aijb->noibr", y, core).flatten(1, 2)
        return y.reshape(*x.shape[:-1], -1)


def _costs(cores: list[Tensor]) -> tuple[int, int]:
    """Multiply-adds of one token through the cores, and of rebuilding W."""
    through = rebuild = 0
    done_o, done_i, left_i = 1, 1, prod([c.shape[2] for c in cores])  # lists: torch.compile
    for k, c in enumerate(cores):
        left_i //= c.shape[2]
        through += done_o * c.numel() * left_i
        rebuild += done_o * done_i * c.numel() if k else 0
        done_o, done_i = done_o * c.shape[1], done_i * c.shape[2]
    return through, rebuild
