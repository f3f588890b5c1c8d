"""What every decomposition is: a frozen dataclass of sizes with five pure functions."""

from dataclasses import asdict, dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

JITTER = 1e-10  # of the mean diagonal: a metric of few texts is singular in float64


@dataclass(frozen=True)
class Decomposition:
    """A way to hold W (O, I) as factors; a subclass says how.

    `rank` is None for the exact form. `takes_metric`: the form keeps the input mode I whole, so
    that an input covariance can weigh its error; `takes_output_metric`: O too. `chain`: the factors
    that, applied one after the other as plain linear maps, are W; the module then holds them as
    `nn.Linear`.
    """

    rank: int | None = None

    reference: ClassVar[str] = ""
    takes_metric: ClassVar[bool] = True
    takes_output_metric: ClassVar[bool] = False
    chain: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        return type(self).__module__.rsplit(".", 1)[-1]

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        """{factor: shape}. Raises ValueError where the rank is above what (O, I) can have."""
        raise NotImplementedError

    def decompose(
        self, weight: Tensor, metric: Tensor | None = None, output_metric: Tensor | None = None
    ) -> dict[str, Tensor]:
        """W (O, I) -> factors of the dtype and device of W, found in float64.

        `metric` (I, I) or (I,): the covariance C of the inputs; the error minimised is then
        tr(dW C dW^T) instead of |dW|^2, and tr(G dW C dW^T) with `output_metric` G (O, O). Raises
        ValueError where the form cannot honour one.
        """
        self.shapes(*weight.shape)
        if metric is not None and not self.takes_metric:
            raise ValueError(
                f"{self.name} splits the input mode, so it cannot weigh its error by a metric; "
                "use svd, tucker, btd or cp, or no calibration"
            )
        if output_metric is not None and not self.takes_output_metric:
            raise ValueError(f"{self.name} splits the output mode: it takes no output metric")
        w, s = weight.detach().double(), root(metric, weight.device)
        if output_metric is None:
            factors = self._factors(w, s)
        else:
            g = root(output_metric, weight.device)
            factors = self._factors(g.mT @ w, s)
            factors["left"] = torch.linalg.solve_triangular(g.mT, factors["left"], upper=True)
        return {k: f.to(weight.dtype).contiguous() for k, f in factors.items()}

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        """float64 factors of W; `s` (I, I) lower triangular or (I,) with metric = s s^T."""
        raise NotImplementedError

    def matrices(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(left (O, K), right (K, I)) with W = left @ right; forms that split I have none."""
        raise NotImplementedError

    def reconstruct(self, factors: dict[str, Tensor]) -> Tensor:
        """Factors -> W (O, I)."""
        left, right = self.matrices(factors)
        return left @ right

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        """x (..., I) -> x W^T (..., O), through K or through the dense W, whichever costs less."""
        left, right = self.matrices(factors)
        (o, k), i, tokens = left.shape, right.shape[1], x.numel() // x.shape[-1]
        if tokens * k * (o + i) <= tokens * o * i + o * k * i:
            return x @ right.mT @ left.mT
        return x @ (left @ right).mT

    def rough(self) -> "Decomposition":
        """The same form, its factors found faster and a few percent worse: to choose by."""
        return self

    def parameters(self, out_features: int, in_features: int) -> int:
        return sum(map(prod, self.shapes(out_features, in_features).values()))

    def to_dict(self) -> dict:
        return {"name": self.name, **{k: v for k, v in asdict(self).items() if v is not None}}


def root(metric: Tensor | None, device) -> Tensor | None:
    """s with metric = s s^T, in float64: (I, I) lower triangular, or (I,) for a diagonal.

    A metric of zeros (inputs that were never seen) says nothing: None.
    """
    if metric is None or not metric.any():
        return None
    metric = metric.detach().to(device, torch.float64)
    if metric.ndim == 1:
        return (metric + JITTER * metric.mean() + torch.finfo(metric.dtype).tiny).sqrt()
    jitter = JITTER * metric.diagonal().mean() + torch.finfo(metric.dtype).tiny
    diagonal, kept = metric.diagonal(), metric.diagonal().clone()
    try:  # raised in place for a moment: the copy would be the largest tensor of a compression
        for _ in range(6):
            diagonal.copy_(kept + jitter)
            factor, failed = torch.linalg.cholesky_ex(metric)
            if not failed:
                return factor
            jitter = jitter * 30
    finally:
        diagonal.copy_(kept)
    raise ValueError("the metric is not positive semi-definite: is it finite and symmetric?")


def weigh(weight: Tensor, s: Tensor | None) -> Tensor:
    """W s: plain distance in it is the metric's distance in W. (..., O, I)"""
    return weight if s is None else weight * s if s.ndim == 1 else weight @ s


def unweigh(factor: Tensor, s: Tensor | None) -> Tensor:
    """A factor (..., I, R) of W s -> that factor of W: s^-T factor."""
    if s is None:
        return factor
    if s.ndim == 1:
        return factor / s[:, None]
    return torch.linalg.solve_triangular(s.mT, factor, upper=True)
