"""What every decomposition is: a frozen dataclass of sizes, and pure functions on tensors."""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

JITTER = 1e-10  # share of the mean diagonal added to a metric. Without it the metric of a few
# texts is singular in float64; a larger value blurs small eigenvalues.
STRIPE = 2048  # columns of a metric that are taken to the dtype of a weight at once; more of them
# take more memory


@dataclass(frozen=True)
class Decomposition:
    """A way to hold W (O, I) as factors. A subclass in a file of this folder is found by its name.

    A subclass must define `shapes` and `_factors`, and either `matrices` or both `reconstruct` and
    `apply`. Its docstring says what `rank` counts; None is full rank. Class variables tell the
    planner and the tests what the subclass can do:

    reference            the paper; the model card cites it
    takes_metric         it can weigh its error by the covariance of the inputs
    takes_output_metric  it can weigh errors of the outputs too; its factor `left` is then (O, R)
    takes_heads          it has a field `modes`, filled with (H, D) for an attention projection
    automatic            `--method auto` considers it
    exact                at full rank it reproduces W
    alone                it can take the place of a single linear; otherwise a whole MLP is cut
    slack                how far, as a share of |W|, an iterative algorithm may end above the lowest
                         error; the tests allow that much
    takes_lora           its factors can hold W + BA exactly; it then defines `plus`
    chain                names of factors that are linear maps, first applied first: each is held as
                         an `nn.Linear`, so that other tools find it

    A field called `blocks` is filled with `--blocks`, or with the number of heads.
    """

    rank: int | None = None

    reference: ClassVar[str] = ""
    takes_metric: ClassVar[bool] = True
    takes_output_metric: ClassVar[bool] = False
    takes_heads: ClassVar[bool] = False
    automatic: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    slack: ClassVar[float] = 0.0
    takes_lora: ClassVar[bool] = False
    chain: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The name of the file, which is also the value of `--method`."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        """{factor: shape}.

        Raises ValueError for a rank that (O, I) cannot have: `rank 0 is below 1`, or
        `rank 40 is above 32` with the highest rank there is.
        """
        raise NotImplementedError

    def decompose(
        self, weight: Tensor, metric: Tensor | None = None, output_metric: Tensor | None = None
    ) -> dict[str, Tensor]:
        """W (O, I) -> factors with the dtype and device of W, computed in float64.

        Minimises |dW|^2; with a `metric` C (I, I) or (I,), the covariance of the inputs,
        tr(dW C dW^T); with an `output_metric` G (O, O) also tr(G dW C dW^T). Raises ValueError for
        a metric that this decomposition cannot use.
        """
        self.shapes(*weight.shape)
        if metric is not None and not self.takes_metric:
            raise ValueError(
                f"{self.name} cannot weigh its error by a metric: use a decomposition that takes "
                "one, or give no metric"
            )
        if output_metric is not None and not self.takes_output_metric:
            raise ValueError(f"{self.name} cannot weigh its error by an output metric")
        factors = self._weighed(weight.detach().double(), metric, output_metric)
        return {k: f.to(weight.dtype).contiguous() for k, f in factors.items()}

    def _weighed(
        self, weight: Tensor, metric: Tensor | None, output_metric: Tensor | None
    ) -> dict[str, Tensor]:
        """float64 factors of W (O, I) under its metrics.

        By default they are those of `_factors` under the roots of the metrics.
        """
        s, g = root(metric, weight.device), root(output_metric, weight.device)
        if g is None:
            return self._factors(weight, s)
        factors = self._factors(g.mT @ weight, s)
        factors["left"] = torch.linalg.solve_triangular(g.mT, factors["left"], upper=True)
        return factors

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        """float64 factors of W (O, I).

        `s`, (I, I) lower triangular or (I,), is the root of the metric: C = s s^T. None: no metric.
        """
        raise NotImplementedError

    def matrices(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(left (O, K), right (K, I)) with W = left @ right, if the factors can be joined so."""
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

    def plus(
        self, factors: dict[str, Tensor], b: Tensor, a: Tensor
    ) -> tuple["Decomposition", dict[str, Tensor]]:
        """The decomposition and the factors of W + b a, b (O, r) and a (r, I); O and I are the
        sizes that a module with these factors gives and reads."""
        raise NotImplementedError

    def cut(self, rows: Tensor) -> Tensor:
        """What the module that holds the factors has of a bias (O,), or of W, row by row."""
        return rows

    def pad(self, rows: Tensor) -> Tensor:
        """The inverse of `cut`; rows that are not held are zero."""
        return rows

    def rough(self) -> "Decomposition":
        """The same sizes, with factors that are found faster and are a few percent worse.

        `--method auto` compares candidates by it.
        """
        return self

    def parameters(self, out_features: int, in_features: int) -> int:
        """How many numbers the factors of a weight (O, I) hold."""
        return sum(map(prod, self.shapes(out_features, in_features).values()))

    def reach(self, out_features: int, in_features: int) -> int:
        """The highest matrix rank that its factors can give to a weight (O, I)."""
        shapes = self.shapes(out_features, in_features)
        try:
            empty = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
            inner = self.matrices(empty)[0].shape[1]
        except NotImplementedError:
            return min(out_features, in_features)
        return min(inner, out_features, in_features)

    def to_dict(self) -> dict[str, Any]:
        """Name and fields as plain values, without those that are None."""
        return {"name": self.name, **{k: v for k, v in asdict(self).items() if v is not None}}


def root(metric: Tensor | None, device: torch.device) -> Tensor | None:
    """s with metric = s s^T, in float64: (I, I) lower triangular, or (I,) for a diagonal.

    None for a metric of zeros, which belongs to inputs that never occurred. Raises ValueError for
    a metric that is not positive semi-definite.
    """
    if metric is None or not metric.any():
        return None
    metric = metric.detach().to(device, torch.float64)
    if metric.ndim == 1:
        return (metric + JITTER * metric.mean() + torch.finfo(metric.dtype).tiny).sqrt()
    jitter = JITTER * metric.diagonal().mean() + torch.finfo(metric.dtype).tiny
    diagonal, kept = metric.diagonal(), metric.diagonal().clone()
    try:  # in place for a moment: a copy would be the largest tensor of a compression
        for _ in range(6):
            diagonal.copy_(kept + jitter)
            factor, failed = torch.linalg.cholesky_ex(metric)
            if not failed:
                return factor
            jitter = jitter * 30
    finally:
        diagonal.copy_(kept)
    raise ValueError("the metric is not positive semi-definite: is it finite and symmetric?")


def times(weight: Tensor, metric: Tensor | None) -> Tensor:
    """W C (O, I), C with the jitter that `root` adds; W for no metric or one of zeros.

    Where a product of W C is all that is needed, C needs no root.
    """
    if metric is None or not metric.any():
        return weight
    if metric.ndim == 1:
        metric = metric.detach().to(weight)
        return weight * (metric + JITTER * metric.mean())
    parts = [weight @ part.to(weight) for part in metric.detach().split(STRIPE, 1)]
    found = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return found.add_(weight, alpha=JITTER * float(metric.diagonal().to(weight).mean()))


def weigh(weight: Tensor, s: Tensor | None) -> Tensor:
    """W s (..., O, I): the plain norm of dW s is the norm of dW in the metric s s^T."""
    return weight if s is None else weight * s if s.ndim == 1 else weight @ s


def unweigh(factor: Tensor, s: Tensor | None) -> Tensor:
    """The input factor (..., I, R) of W s -> the input factor of W: s^-T factor."""
    if s is None:
        return factor
    if s.ndim == 1:
        return factor / s[:, None]
    return torch.linalg.solve_triangular(s.mT, factor, upper=True)
