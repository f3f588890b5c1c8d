"""Singular value decomposition: W = left right, two thin matrices."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import capped
from tlmtool.decompositions.base import Decomposition, weigh


@dataclass(frozen=True)
class SVD(Decomposition):
    """W (O, I) = left (O, R) right (R, I); R counts singular values.

    With a metric C it is the best matrix of rank R in tr(dW C dW^T): Eckart-Young on W C^(1/2).

    The algorithm takes the eigenvectors of the smaller Gram matrix and projects W itself on them.
    It needs no inverse of C, and full rank is exact. It takes half the time of `torch.linalg.svd`
    in float64 at the same error (`benchmarks/compress.py`).
    """

    reference: ClassVar[str] = "Eckart & Young 1936; input-weighted: Wang et al. 2024 (SVD-LLM)"
    takes_output_metric: ClassVar[bool] = True
    automatic: ClassVar[bool] = True
    chain: ClassVar[tuple[str, ...]] = ("right", "left")

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        full = min(out_features, in_features)
        r = capped(self.rank, (full,), f"a weight ({out_features}, {in_features})")[0]
        return {"left": (out_features, r), "right": (r, in_features)}

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        o, i = weight.shape
        r = self.shapes(o, i)["left"][1]
        m = weigh(weight, s)
        if o <= i:
            basis = torch.linalg.eigh(m @ m.mT)[1][:, -r:].flip(1)
            left, right = basis, basis.mT @ weight
        elif s is None:
            right = torch.linalg.eigh(m.mT @ m)[1][:, -r:].flip(1).mT
            left = weight @ right.mT
        else:
            left = torch.linalg.qr(m @ torch.linalg.eigh(m.mT @ m)[1][:, -r:].flip(1))[0]
            right = left.mT @ weight
        # each component shares its size between its two halves, for low precision and training
        gauge = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-300)).clamp_min(1e-12).sqrt()
        return {"left": left * gauge, "right": right / gauge[:, None]}

    def matrices(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return factors["left"], factors["right"]

    def rebuild_flops(self, out_features: int, in_features: int) -> int:
        """FLOPs of `reconstruct`; its backward pass takes twice as many."""
        return 2 * out_features * in_features * self.shapes(out_features, in_features)["left"][1]


def spectrum(weight: Tensor, s: Tensor | None = None, g: Tensor | None = None) -> Tensor:
    """Squared singular values of g^T W s in float64, largest first, (min(O, I),)."""
    m = weigh(weight.detach().double(), s)
    m = m if g is None else g.mT @ m
    gram = m @ m.mT if m.shape[0] <= m.shape[1] else m.mT @ m
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
