"""Singular value decomposition: W = left right, two thin matrices."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import capped
from tlmtool.decompositions.base import Decomposition, root, times, unweigh, weigh

NEGATIVE = 1e-3  # share of the largest eigenvalue that rounding may take another one below zero


@dataclass(frozen=True)
class SVD(Decomposition):
    """W (O, I) = left (O, R) right (R, I); R counts singular values.

    With a metric C it is the best matrix of rank R in tr(dW C dW^T): Eckart-Young on W C^(1/2).

    The algorithm takes the eigenvectors of the smaller Gram matrix of g^T W s. The metric of the
    longer side is multiplied as it is: only that of the shorter side needs a root. Full rank is
    exact. It takes half the time of `torch.linalg.svd` in float64 at the same error
    (`benchmarks/compress.py`).
    """

    reference: ClassVar[str] = "Eckart & Young 1936; input-weighted: Wang et al. 2024 (SVD-LLM)"
    takes_output_metric: ClassVar[bool] = True
    takes_lora: ClassVar[bool] = True
    automatic: ClassVar[bool] = True
    chain: ClassVar[tuple[str, ...]] = ("right", "left")

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        full = min(out_features, in_features)
        r = capped(self.rank, (full,), f"a weight ({out_features}, {in_features})")[0]
        return {"left": (out_features, r), "right": (r, in_features)}

    def _weighed(
        self, weight: Tensor, metric: Tensor | None, output_metric: Tensor | None
    ) -> dict[str, Tensor]:
        o, i = weight.shape
        r = self.shapes(o, i)["left"][1]
        wide = o <= i
        m, near, far = weight, output_metric, metric
        if not wide:
            m, near, far = weight.mT, metric, output_metric
        gram, s = _gram(m, near, far)
        values, vectors = torch.linalg.eigh(gram)
        _check(values)
        basis = vectors[:, -r:].flip(1)
        short = unweigh(basis, s)  # s^-T U U^T s^T M is the best of rank R
        long = (basis if s is None else s[:, None] * basis if s.ndim == 1 else s @ basis).mT @ m
        left, right = (short, long) if wide else (long.mT, short.mT)
        # each component shares its size between its two halves, for low precision and training
        gauge = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-300)).clamp_min(1e-12).sqrt()
        return {"left": left * gauge, "right": right / gauge[:, None]}

    def matrices(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return factors["left"], factors["right"]

    def plus(
        self, factors: dict[str, Tensor], b: Tensor, a: Tensor
    ) -> tuple["SVD", dict[str, Tensor]]:
        """Both side by side, of rank R + r; the full rank where that would be larger."""
        left, right = factors["left"], factors["right"]
        wider = torch.cat((left, b.to(left)), 1), torch.cat((right, a.to(right)), 0)
        rank, full = wider[1].shape[0], min(left.shape[0], right.shape[1])
        if rank <= full:
            return SVD(rank), {"left": wider[0], "right": wider[1]}
        made = SVD(full).decompose(wider[0].double() @ wider[1].double())
        return SVD(full), {name: factor.to(left) for name, factor in made.items()}

    def rebuild_flops(self, out_features: int, in_features: int) -> int:
        """FLOPs of `reconstruct`; its backward pass takes twice as many."""
        return 2 * out_features * in_features * self.shapes(out_features, in_features)["left"][1]


def spectrum(
    weight: Tensor, metric: Tensor | None = None, output_metric: Tensor | None = None
) -> Tensor:
    """Squared singular values of g^T W s in float64, largest first, (min(O, I),).

    The metrics are C = s s^T (I, I) or (I,), and G = g g^T (O, O). Raises ValueError for a metric
    that is not positive semi-definite.
    """
    m, near, far = weight.detach().double(), output_metric, metric
    if m.shape[0] > m.shape[1]:
        m, near, far = m.mT, metric, output_metric
    values = torch.linalg.eigvalsh(_gram(m, near, far)[0])
    _check(values)
    return values.flip(0).clamp_min(0)


def blind_losses(weight: Tensor, metric: Tensor | None, output_metric: Tensor) -> Tensor:
    """What W loses in |g^T dW s|^2 where the SVD does not know of g, (min(O, I),) float64.

    The sum of the values from R on is the loss of the best W of rank R in |dW s| alone.
    """
    w = weight.detach().double()
    if w.shape[0] <= w.shape[1]:
        values, vectors = torch.linalg.eigh(times(w, metric) @ w.mT)
        costs = values * (times(vectors.mT, output_metric) * vectors.mT).sum(1)
    else:
        both, _ = _gram(w.mT, metric, output_metric)
        vectors = torch.linalg.eigh(_gram(w.mT, metric, None)[0])[1]
        costs = ((both @ vectors) * vectors).sum(0)
    return costs.flip(0).clamp_min(0)


def _gram(m: Tensor, near: Tensor | None, far: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(s^T M F M^T s (N, N), s) of M (N, L), of the metric s s^T of its rows and F of its columns.

    Raises ValueError for a metric that is not positive semi-definite.
    """
    s = root(near, m.device)
    gram = weigh(weigh(times(m, far) @ m.mT, s).mT, s)
    _check(gram.diagonal())
    return gram, s


def _check(values: Tensor) -> None:
    """Raises ValueError if eigenvalues, or a diagonal, are negative or not finite."""
    if not (values >= -NEGATIVE * values.abs().max()).all():
        raise ValueError("the metric is not positive semi-definite: is it finite and symmetric?")
