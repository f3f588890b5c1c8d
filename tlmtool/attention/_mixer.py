"""The local mixer: a depthwise convolution of v over tokens, w taps for each output and column."""

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad


def around(width: int, causal: bool) -> tuple[int, int]:
    """Tokens that a mixer of so many takes before and after the present one."""
    after = 0 if causal else width // 2
    return max(width - 1 - after, 0), after


def widened(v: Tensor, width: int, causal: bool) -> Tensor:
    """(B, H, N, D) -> (B, H, N + w - 1, D), zeros at the ends."""
    return pad(v, (0, 0, *around(width, causal))) if width > 1 else v


def mixed(out: Tensor | None, v: Tensor, taps: Tensor) -> Tensor:
    """out (B, H, N, c, D), None for 0, and taps (H, c, D, w) of v (B, H, N + w - 1, D)."""
    n = v.shape[2] - taps.shape[-1] + 1
    for i in range(taps.shape[-1]):
        part, tap = v[:, :, i : i + n, None], taps[:, None, :, :, i]
        out = part * tap if out is None else torch.addcmul(out, part, tap)
    return out


def naive(v: Tensor, taps: Tensor, causal: bool) -> Tensor:
    """The same by torch's convolution: (B, H, N, D) -> (B, N, H c D)"""
    (_, h, _, d), c = v.shape, taps.shape[1]
    local = pad(v.mT.flatten(1, 2), around(taps.shape[-1], causal))
    local = conv1d(local, taps.transpose(1, 2).flatten(0, 2)[:, None], groups=h * d)
    return local.unflatten(1, (h, d, c)).permute(0, 4, 1, 3, 2).flatten(2)
