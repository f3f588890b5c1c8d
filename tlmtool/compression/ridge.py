"""Ridge regression with more features than rows, through its dual: the Gram matrix of the rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from tlmtool.compression.calibration import damp_

ROWS = 4096  # most rows of a fit: more of them take more time and memory
NUMBERS = 1 << 26  # most numbers of all features, 256 MiB: fewer make fits of fewer rows
SHARES = (
    10.0,
    1.0,
    0.1,
    0.01,
    0.001,
)  # dampings tried, as shares of the Gram matrix's mean diagonal
HELD = 5  # one text out of so many is held out to choose the damping


class Found(NamedTuple):
    """The map (F, E), and the bias (E,) if rows were centred.

    `error` is relative, on the rows held out, the least that a share gives; None without such rows.
    """

    map: Tensor
    bias: Tensor | None
    error: float | None


def most_rows(features: int) -> int:
    """How many rows with so many features a fit may use."""
    return max(1, min(ROWS, NUMBERS // features))


def dual(x: Tensor, y: Tensor, fitted: int, centred: bool) -> Found:
    """y (T, E) as x (T, F) map + bias, from the first `fitted` rows; x and y change in place.

    With K = X X^T of the centred rows, map = X^T (K + share mean(diag K) 1)^-1 Y. The share is the
    one that is best on the remaining rows, so the error on these is slightly too good.
    """
    means = x[:fitted].mean(0), y[:fitted].mean(0)
    if centred:
        x.sub_(means[0]), y.sub_(means[1])
    held = fitted < len(x)
    rows, truth, power = x[:fitted], y[fitted:].double(), float(y[fitted:].norm())
    gram, across = (rows @ rows.T).double(), (x[fitted:] @ rows.T).double()
    best, error = None, float("inf")
    for share in SHARES if held else SHARES[2:3]:
        factor = torch.linalg.cholesky(damp_(gram.clone(), share))
        weights = torch.cholesky_solve(y[:fitted].double(), factor)  # (fitted, E)
        wrong = float((across @ weights - truth).norm())
        if wrong < error:
            best, error = weights, wrong
    found = rows.T @ best.to(rows)
    bias = means[1] - means[0] @ found if centred else None
    return Found(found, bias, error / max(power, 1e-30) if held else None)
