"""Sums that decay with distance, over the past or the future, in linear time for any length.

P_i[s] = c_s sum_{j <= i} lambda_s^(i-j) x_j with c_s = 1 - lambda_s, which makes it a mean. All
exponents are >= 0, so nothing overflows at any length. Rates are given as log lambda (S,), x as
(B, N, L). A state is P after some last token, (B, S, L).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 16  # tokens in one matrix product: more cost more products, fewer cost more steps


def size_of(log_rates: Tensor) -> Tensor:
    """c (S,), which makes a mean of the sum."""
    return -torch.expm1(log_rates)


def sums(x: Tensor, log_rates: Tensor, state: Tensor) -> Tensor:
    """P (B, N, S, L) at each token of x; `state` is that of the tokens before."""
    (b, n, width), s = x.shape, log_rates.numel()
    c = min(CHUNK, n)
    chunks = pad(x, (0, 0, 0, -n % c)).reshape(b, -1, c, width)
    steps = torch.arange(c, device=x.device, dtype=x.dtype)
    gaps = (steps[:, None] - steps)[:, None]  # (C, 1, C), i - j
    powers = torch.exp(gaps.clamp(min=0) * log_rates[:, None]) * size_of(log_rates)[:, None]
    powers = powers.masked_fill(gaps < 0, 0).reshape(c * s, c)
    inside = (powers @ chunks).reshape(b, -1, c, s, width)
    fading = torch.exp((steps[:, None, None] + 1) * log_rates[:, None])  # (C, S, 1)
    carried = []
    for end in inside[:, :, -1].unbind(1):
        carried.append(state)
        state = torch.addcmul(end, fading[-1], state)
    whole = torch.addcmul(inside, fading, torch.stack(carried, 1)[:, :, None])
    return whole.reshape(b, -1, s, width)[:, :n]


def after(x: Tensor, log_rates: Tensor, state: Tensor) -> Tensor:
    """The state after all of x: the last row of `sums`."""
    gaps = torch.arange(x.shape[1] - 1, -1, -1, device=x.device, dtype=x.dtype)
    powers = torch.exp(gaps * log_rates[:, None]) * size_of(log_rates)[:, None]  # (S, N)
    return powers @ x + torch.exp(x.shape[1] * log_rates)[:, None] * state


def following(spans: tuple[Tensor, ...], log_rates: Tensor) -> list[Tensor]:
    """For each span (B, n, L) the state of all tokens after it, summed from the last one back."""
    b, _, width = spans[0].shape
    state, found = spans[0].new_zeros(b, log_rates.numel(), width), []
    for x in reversed(spans):
        found.append(state)
        state = after(x.flip(1), log_rates, state)
    return found[::-1]


def later(x: Tensor, log_rates: Tensor, state: Tensor) -> Tensor:
    """c_s sum_{j > i} lambda_s^(j-i) x_j, (B, N, S, L); `state` is that of what follows x."""
    own = size_of(log_rates)[:, None] * x[:, :, None]
    return sums(x.flip(1), log_rates, state).flip(1) - own
