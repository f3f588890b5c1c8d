"""f(S) of dimension-wise attention: how products of columns weigh."""

from torch import Tensor

from tlmtool.attention.base import Tensors

EPS = 1e-4  # added to sums of squares; a column whose sum is smaller than this hardly counts


def scores(
    f: str,
    s: Tensor,
    n: Tensor | int,
    squares: tuple[Tensor | None, Tensor | None],
    tensors: Tensors,
) -> Tensor:
    """S (B, H, ..., D, M) of n tokens -> f(S). `squares`: the sums of squares of the columns of q
    and of k (B, H, ..., D), needed for a cosine."""
    if f == "features":
        return s
    t, width, (qq, kk) = tensors["temperature"], s.shape[-1], squares
    t = t.view(-1, *[1] * (s.ndim - 2))
    if qq is not None and kk is not None and f == "cosine":
        s = s * (qq + EPS).rsqrt()[..., :, None] * (kk + EPS).rsqrt()[..., None, :]
        return s * (t * (n / (n + width)) ** 0.5)
    s = s * (t / (n + (n == 0)))
    return width * s.softmax(-1) if f == "softmax" else s
