"""Kronecker decomposition: W as a sum of R Kronecker products of two small matrices."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import capped, split
from tlmtool.decompositions.base import Decomposition


@dataclass(frozen=True)
class Kronecker(Decomposition):
    """W (O, I) = sum_r a_r (O1, I1) kron b_r (O2, I2); R counts products, up to min(O1 I1, O2 I2).

    Rearranged so that each product is a matrix of rank one, W has the best R of them as its SVD.
    """

    reference: ClassVar[str] = "Van Loan & Pitsianis 1993 (Approximation with Kronecker products)"
    takes_metric: ClassVar[bool] = False

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        (o1, o2), (i1, i2) = split(out_features), split(in_features)
        what = f"a weight ({o1} x {o2}, {i1} x {i2})"
        r = capped(self.rank, (min(o1 * i1, o2 * i2),), what)[0]
        return {"a": (r, o1, i1), "b": (r, o2, i2)}

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        (r, o1, i1), (_, o2, i2) = self.shapes(*weight.shape).values()
        blocks = weight.reshape(o1, o2, i1, i2).transpose(1, 2).reshape(o1 * i1, o2 * i2)
        u, sigma, v = torch.linalg.svd(blocks, full_matrices=False)
        half = sigma[:r].sqrt()
        a, b = (u[:, :r] * half).mT, half[:, None] * v[:r]
        return {"a": a.reshape(r, o1, i1), "b": b.reshape(r, o2, i2)}

    def reconstruct(self, factors: dict[str, Tensor]) -> Tensor:
        w = torch.einsum("rij,rkl->ikjl", factors["a"], factors["b"])
        return w.flatten(2).flatten(0, 1)

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        (r, o1, i1), (_, o2, i2) = factors["a"].shape, factors["b"].shape
        tokens, dense = x.numel() // x.shape[-1], o1 * o2 * i1 * i2
        # multiply-adds through b and a, against those of rebuilding W and multiplying by it
        if tokens * r * o2 * i1 * (i2 + o1) > (tokens + r) * dense:
            return x @ self.reconstruct(factors).mT
        y = torch.einsum("...jl,rkl->...rjk", x.unflatten(-1, (i1, i2)), factors["b"])
        return torch.einsum("...rjk,rij->...ik", y, factors["a"]).flatten(-2)
