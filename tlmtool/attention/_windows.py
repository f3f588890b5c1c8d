"""T relative to its query, through windows: F[i,a,b] = sum_{rst} G[r,s,t] q_ir K_i[a,s] V_i[b,t].

A window K_i (A, L) is what token i sees of k (B, N, L), L all blocks and ranks: its neighbours
("conv") or sums that decay with distance ("decay"). Windows are made for a span of tokens at a
time: they are larger than k by A.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tlmtool.attention._decay import following, later, sums

SPAN = 1 << 18  # numbers in the windows of a span, where that is no less than
LEAST = 64  # tokens

State = dict[str, Tensor]


def meet(q: Tensor, core: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    """q (B, N, P, R) and windows (B, N, A, L) -> F (B, N, A A)"""
    if core is None:
        met = q.flatten(2)[:, :, None] * k
    else:
        blocks = torch.einsum("bnpr,prst->bnpst", q, core)
        met = (k.unflatten(3, q.shape[2:]).transpose(2, 3) @ blocks).transpose(2, 3).flatten(3)
    return (met @ v.mT).flatten(2)


def conv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core: Tensor | None,
    kernel: int,
    state: State | None,
    ahead: int,
) -> tuple[Tensor, State]:
    """F with K_i[a] = k_{i-a+ahead}; the state is the last `kernel` - 1 rows of k and of v."""
    n, behind = q.shape[1], kernel - 1 - ahead
    if state is None:
        padded = [pad(x, (0, 0, behind, ahead)) for x in (k, v)]
    else:
        padded = [torch.cat([state[name], x], 1) for name, x in (("k", k), ("v", v))]
    step = _span(q, kernel, core)
    windows = (x.unfold(1, kernel, 1).mT.split(step, 1) for x in padded)
    found = [meet(q, core, k, v) for q, k, v in zip(q.split(step, 1), *windows, strict=True)]
    turned = torch.cat(found, 1).unflatten(2, (kernel, kernel)).flip(2, 3).flatten(2)
    return turned, {name: x[:, n:].clone() for name, x in zip("kv", padded, strict=True)}


def decay(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core: Tensor | None,
    log_rates: tuple[Tensor, Tensor],
    state: State | None,
    causal: bool,
) -> tuple[Tensor, State]:
    """F with decaying sums as windows, over both sides where not `causal`; the state is the last
    window of k and of v."""
    step, found = _span(q, log_rates[0].numel(), core), []
    sides = [(x.split(step, 1), r) for x, r in zip((k, v), log_rates, strict=True)]
    if state is None:
        before = [x[0].new_zeros(x[0].shape[0], r.numel(), x[0].shape[2]) for x, r in sides]
    else:
        before = [state["k"], state["v"]]
    beyond = [[None] * len(x) if causal else following(x, r) for x, r in sides]
    for place, now in enumerate(q.split(step, 1)):
        windows = [sums(x[place], r, b) for (x, r), b in zip(sides, before, strict=True)]
        before = [w[:, -1] for w in windows]
        if not causal:
            both = zip(windows, sides, beyond, strict=True)
            windows = [w + later(x[place], r, b[place]) for w, (x, r), b in both]
        found.append(meet(now, core, *windows))
    return torch.cat(found, 1), {name: b.clone() for name, b in zip("kv", before, strict=True)}


def _span(q: Tensor, side: int, core: Tensor | None) -> int:
    """Tokens to a span. They come by `split`: the gradient of a slice is as large as the whole."""
    b, _, p, r = q.shape
    return max(LEAST, SPAN // (b * p * r * (side if core is None else max(side, r))))
