"""Operators on all tokens of a head, in little fresh memory."""

import torch
from torch import Tensor
from torch.utils.flop_counter import bmm_flop, register_flop_formula

PIECE = 1 << 18  # numbers whose squares are held at once, where that is no less than
LEAST = 64  # tokens


def empty(like: Tensor) -> Tensor:
    """(B, H, N, .) as given, in memory (B, N, H, .)."""
    return like.new_empty(like.transpose(1, 2).shape).transpose(1, 2)


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@torch.library.custom_op("tlm::squares", mutates_args=())
def squares(x: Tensor) -> Tensor:
    """The sum of x^2 over tokens, piece by piece: (B, H, N, D) -> (B, H, D)."""
    out = x.new_zeros(x.shape[0], x.shape[1], x.shape[3])
    for piece in x.split(max(LEAST, PIECE // max(1, out.numel())), 2):
        out += piece.square().sum(2)
    return out


@squares.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], x.shape[3])


squares.register_autograd(
    lambda ctx, grad: 2 * grad[:, :, None] * ctx.saved_tensors[0], setup_context=_keep
)


@torch.library.custom_op("tlm::by_head", mutates_args=())
def by_head(x: Tensor, w: Tensor) -> Tensor:
    """x w^T: x (B, H, N, I) and w (B, H, O, I) -> (B, H, N, O), in memory (B, N, H, O)."""
    out = empty(x[..., :1].expand(*x.shape[:3], w.shape[2]))
    for text, maps, to in zip(x, w, out, strict=True):
        torch.bmm(text, maps.mT, out=to)  # a copy would be as much fresh memory again
    return out


@by_head.register_fake
def _(x: Tensor, w: Tensor) -> Tensor:
    return empty(x[..., :1].expand(*x.shape[:3], w.shape[2]))


def _gradient(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, w = ctx.saved_tensors
    return grad @ w, grad.mT @ x


by_head.register_autograd(_gradient, setup_context=_keep)


@register_flop_formula(torch.ops.tlm.by_head)
def _flops(x: torch.Size, w: torch.Size, *args, **kwargs) -> int:
    (batch, heads, length, width), features = x, w[2]
    return bmm_flop((batch * heads, length, width), (batch * heads, width, features))
