"""Ridge regression with more features than rows: through the Gram matrix of the rows, its dual."""

from typing import NamedTuple

import torch
from torch import Tensor

from tlmtool.compression.calibration import damp_

ROWS = 4096
NUMBERS = 1 << 26  # of features that are held at once: 256 MiB
SHARES = (10.0, 1.0, 0.1, 0.01, 0.001)  # of the mean of the Gram matrix's diagonal
HELD = 5  # of so many texts one is held out


class Found(NamedTuple):
    """The map (F, E) and, where rows were centred, the bias (E,); `error`: relative, on the rows
    that were held out, the least that a share gives; None where there are none."""

    map: Tensor
    bias: Tensor | None
    error: float | None


def most_rows(features: int) -> int:
    """So many rows of so many features are held at once."""
    return max(1, min(ROWS, NUMBERS // features))


def dual(x: Tensor, y: Tensor, fitted: int, centred: bool) -> Found:
    """y (T, E) as x (T, F) map + bias, from the first `fitted` rows; x and y are changed in place.

    With K = X X^T of the centred rows, map = X^T (K + share mean(diag K) 1)^-1 Y: of the shares
    the one that is best on the rows after these, so that its error there is a little too good."""
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
