"""Running sums over tokens, as matrix products: of squares, and of a kernel of low rank."""

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 64  # tokens whose pairs are held at once: more of them take more memory
RUN = 16  # tokens that one matrix product sums up; torch's cumsum takes twice as long


def inverse_norms(x: Tensor, before: Tensor | float) -> Tensor:
    """1 / sqrt(before + the sum of x^2 over the tokens up to each), for x (B, H, N, D)."""
    runs = _cut(x, RUN).square()
    past = pad(runs.sum(3).cumsum(2), (0, 0, 1, -1)) + before  # (B, H, n, D)
    upto = torch.ones(RUN, RUN, dtype=x.dtype, device=x.device).tril()
    sizes, past, runs = runs.shape[:3], past.flatten(0, 2)[:, None], runs.flatten(0, 2)
    sums = torch.baddbmm(past, upto.expand(len(runs), RUN, RUN), runs)
    return sums.rsqrt_().unflatten(0, sizes).flatten(2, 3)[:, :, : x.shape[2]]


def norms_flops(batch: int, heads: int, length: int, width: int) -> int:
    """FLOPs of the matrix products of `inverse_norms`."""
    return 2 * batch * heads * width * RUN * RUN * -(-length // RUN)


def linear(q: Tensor, k: Tensor, v: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(W o S_i) v_i with S_i = sum_{n <= i} q_n k_n^T: q (B, H, N, D), k and v (B, H, N, M) ->
    (B, H, N, c, D).

    W = left (H, c, D, R) right (H, c, R, M). These are R linear attentions: token i gives q_n the
    weight (v_i o right_r) k_n, and left_r scales it.
    """
    length, chunk, (c, d, r) = q.shape[2], min(CHUNK, q.shape[2]), left.shape[1:]
    q, k, v = (_cut(x, chunk) for x in (q, k, v))
    s = pad((q.mT @ k).cumsum(2), (0, 0, 0, 0, 1, -1))  # before each chunk, (B, H, n, D, D)
    before = v @ ((left @ right)[:, None] * s[:, :, :, None]).flatten(3, 4).mT
    asked = v[:, :, :, None] * right.flatten(1, 2)[:, None, :, None]  # (B, H, n, c R, C, D)
    weights = (asked.flatten(3, 4) @ k.mT).unflatten(3, (c * r, chunk)).tril()
    found = (weights.flatten(3, 4) @ q).unflatten(3, (c, r, chunk))
    inside = (found * left.mT[:, None, :, :, None]).sum(4).transpose(3, 4)  # (B, H, n, C, c, D)
    return (inside + before.unflatten(-1, (c, d))).flatten(2, 3)[:, :, :length]


def linear_flops(
    batch: int, heads: int, length: int, sizes: tuple[int, int], kernels: int, rank: int
) -> int:
    """FLOPs of the matrix products of `linear`, that of left and right included. `sizes`: the
    columns of q, and those of k and v."""
    d, m = sizes
    chunk = min(CHUNK, length)
    padded = batch * heads * chunk * -(-length // chunk)
    each = kernels * rank * chunk * (d + m) + (1 + kernels) * d * m
    return 2 * (padded * each + heads * kernels * d * m * rank)


def _cut(x: Tensor, size: int) -> Tensor:
    """(B, H, N, D) -> (B, H, n, size, D), with zeros after the end."""
    short = -x.shape[2] % size
    return (pad(x, (0, 0, 0, short)) if short else x).unflatten(2, (-1, size))
