"""The local mixer: a depthwise convolution of v over tokens, w taps for each output and column."""

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad


def around(width: int, causal: bool) -> tuple[int, int]:
    """How many tokens before and after the present one a mixer of `width` tokens sees."""
    after = 0 if causal else width // 2
    return width - 1 - after, after


def widened(v: Tensor, width: int, causal: bool) -> Tensor:
    """v (B, H, N, D) -> (B, H, N + w - 1, D), with zeros at the ends."""
    return pad(v, (0, 0, *around(width, causal))) if width > 1 else v


def mixed(out: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """out (B, H, N, c, D) plus the convolution of v (B, H, N + w - 1, D) with taps (H, c, D, w)."""
    for i in range(taps.shape[-1]):
        part, tap = v[:, :, i : i + out.shape[2], None], taps[:, None, :, :, i]
        out = torch.addcmul(out, part, tap)
    return out


def naive(v: Tensor, taps: Tensor, causal: bool) -> Tensor:
    """The convolution alone, by torch's: v (B, H, N, D) -> (B, N, H c D)."""
    (_, h, _, d), c = v.shape, taps.shape[1]
    local = pad(v.mT.flatten(1, 2), around(taps.shape[-1], causal))
    local = conv1d(local, taps.transpose(1, 2).flatten(0, 2)[:, None], groups=h * d)
    return local.unflatten(1, (h, d, c)).permute(0, 4, 1, 3, 2).flatten(2)
