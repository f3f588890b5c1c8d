"""The operators of this folder as plain products, for graphs that other programs run.

Inside `as_plain`, kernels call what is here. It computes the same with more memory: `prefix` holds
(B, H, N, J, M) numbers at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_asked: list[bool] = []  # one for each `as_plain` that is open


@contextmanager
def as_plain() -> Iterator[None]:
    """Inside, kernels use operators of torch alone."""
    _asked.append(True)
    try:
        yield
    finally:
        _asked.pop()


def plain() -> bool:
    """Whether this is inside of `as_plain`."""
    return bool(_asked)


def prefix(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, size: Tensor | None, eps: float | None
) -> Tensor:
    """The product of `_prefix.prefix`: q (B, H, N, J), k and v (B, H, N, M), w (H, J, M) ->
    (B, H, N, J)."""
    sums = (q[..., :, None] * k[..., None, :]).cumsum(2)
    v = v if size is None else v * size
    v = v if eps is None else v * (k.square().cumsum(2) + eps).rsqrt()
    out = (w[:, None] * sums * v[..., None, :]).sum(-1)
    return out if eps is None else out * (q.square().cumsum(2) + eps).rsqrt()
