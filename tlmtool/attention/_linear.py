"""Sums over the tokens up to each, as matmuls: of squares, and of a kernel of low rank."""

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 64  # tokens whose pairs are held at once
RUN = 16  # tokens that one matmul adds up; torch's cumsum takes twice as long


def squares(x: Tensor, before: Tensor | int) -> Tensor:
    """(B, H, N, D): the sums of x^2 over the tokens up to each, with those before (B, H, 1, D)."""
    runs = pad(x, (0, 0, 0, -x.shape[2] % RUN)).square().unflatten(2, (-1, RUN))
    sums = torch.ones(RUN, RUN, dtype=x.dtype, device=x.device).tril() @ runs
    past = pad(sums[..., -1, :].cumsum(2), (0, 0, 1, -1)) + before
    return (sums + past[..., None, :]).flatten(2, 3)[:, :, : x.shape[2]]


def squares_flops(batch: int, heads: int, length: int, width: int) -> int:
    """Of its matmuls."""
    return 2 * batch * heads * width * RUN * RUN * -(-length // RUN)


def linear(q: Tensor, k: Tensor, v: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(W o S_i) v_i, S_i = sum_{n <= i} q_n k_n^T, W = left (H, c, D, R) right (H, c, R, D):
    (B, H, N, D) each -> (B, H, N, c, D).

    R linear attentions: token i gives q_n the weight (v_i o right_r) k_n, and left_r scales it.
    """
    length, chunk, (c, r, d) = q.shape[2], min(CHUNK, q.shape[2]), right.shape[1:]
    q, k, v = (pad(x, (0, 0, 0, -length % chunk)).unflatten(2, (-1, chunk)) for x in (q, k, v))
    s = pad((q.mT @ k).cumsum(2), (0, 0, 0, 0, 1, -1))  # before each chunk, (B, H, n, D, D)
    before = v @ ((left @ right)[:, None] * s[:, :, :, None]).flatten(3, 4).mT
    asked = v[:, :, :, None] * right.flatten(1, 2)[:, None, :, None]  # (B, H, n, c R, C, D)
    weights = (asked.flatten(3, 4) @ k.mT).unflatten(3, (c * r, chunk)).tril()
    found = (weights.flatten(3, 4) @ q).unflatten(3, (c, r, chunk))
    inside = (found * left.mT[:, None, :, :, None]).sum(4).transpose(3, 4)  # (B, H, n, C, c, D)
    return (inside + before.unflatten(-1, (c, d))).flatten(2, 3)[:, :, :length]


def linear_flops(batch: int, heads: int, length: int, width: int, kernels: int, rank: int) -> int:
    """Of its matmuls, the product of left and right included."""
    chunk = min(CHUNK, length)
    padded = batch * heads * chunk * -(-length // chunk)
    each = kernels * rank * 2 * chunk * width + (1 + kernels) * width * width
    return 2 * (padded * each + heads * kernels * width * width * rank)
