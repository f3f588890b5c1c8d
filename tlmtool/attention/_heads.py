"""Operators on all tokens of a head that allocate little memory."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import bmm_flop, register_flop_formula

from tlmtool.attention._plain import plain
from tlmtool.attention.base import Tensors

PIECE = 1 << 18  # numbers whose squares are held at once: more of them take more memory
LEAST = 64  # tokens in a piece at least, however large PIECE is


def empty(like: Tensor) -> Tensor:
    """An empty tensor of the given shape (B, H, N, .), laid out in memory as (B, N, H, .)."""
    return like.new_empty(like.transpose(1, 2).shape).transpose(1, 2)


def _traced() -> bool:
    """Whether gradients or a compiler need the operator. Calling its body alone is faster."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def squares(x: Tensor) -> Tensor:
    """The sum of x^2 over tokens, piece by piece: (B, H, N, D) -> (B, H, D)."""
    if plain():
        return x.square().sum(2)
    return _squares(x) if _traced() else _sums(x)


def _sums(x: Tensor) -> Tensor:
    out = x.new_zeros(x.shape[0], x.shape[1], x.shape[3])
    for piece in x.split(max(LEAST, PIECE // max(1, out.numel())), 2):
        out += piece.square().sum(2)
    return out


_squares = torch.library.custom_op("tlm::squares", _sums, mutates_args=())


@_squares.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], x.shape[3])


_squares.register_autograd(
    lambda ctx, grad: 2 * grad[:, :, None] * ctx.saved_tensors[0], setup_context=_keep
)


def by_head(x: Tensor, w: Tensor) -> Tensor:
    """x (B, H, N, I) and w (B, H, O, I) -> x w^T (B, H, N, O), laid out as (B, N, H, O)."""
    if plain():
        return x @ w.mT
    return _by_head(x, w) if _traced() else _matmuls(x, w)


def _matmuls(x: Tensor, w: Tensor) -> Tensor:
    out = empty(x[..., :1].expand(*x.shape[:3], w.shape[2]))
    for text, maps, to in zip(x, w, out, strict=True):
        torch.bmm(text, maps.mT, out=to)  # a copy would allocate as much again
    return out


_by_head = torch.library.custom_op("tlm::by_head", _matmuls, mutates_args=())


@_by_head.register_fake
def _(x: Tensor, w: Tensor) -> Tensor:
    return empty(x[..., :1].expand(*x.shape[:3], w.shape[2]))


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, w = ctx.saved_tensors
    return grad @ w, grad.mT @ x


_by_head.register_autograd(_gradient, setup_context=_keep)


@register_flop_formula(torch.ops.tlm.by_head)
def _flops(x: torch.Size, w: torch.Size, *args: Any, **kwargs: Any) -> int:
    (batch, heads, length, width), features = x, w[2]
    return bmm_flop((batch * heads, length, width), (batch * heads, width, features))


# ---- what a kernel of (H, c, D, M) does to the heads


def wide(
    q: Tensor, k: Tensor, v: Tensor, tensors: Tensors, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensors, Tensor | None]:
    """All in at least float32, zero at padding, and the mask (B, 1, N, 1) or None."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v, t = q.to(dtype), k.to(dtype), v.to(dtype), {n: x.to(dtype) for n, x in tensors.items()}
    if real is None:
        return q, k, v, t, None
    mask = real[:, None, :, None].to(dtype)
    return q * mask, k * mask, v * mask, t, mask


def kernel(t: Tensors) -> Tensor:
    """W (H, c, D, D)."""
    return t["kernel"] if "kernel" in t else t["left"] @ t["right"]


def meet(v: Tensor, s: Tensor, t: Tensors) -> Tensor:
    """V (W o S)^T of each kernel: (B, H, N, D), (B, H, D, D) -> (B, H, N, c, D)."""
    w = kernel(t)
    return by_head(v, (w * s[:, :, None]).flatten(2, 3)).unflatten(-1, w.shape[1:3])
