"""T relative to its query, through windows: F[i,a,b] = sum_{rst} G[r,s,t] q_ir K_i[a,s] V_i[b,t].

A window K_i (A, L) is what token i sees of k (B, N, L), with L over all blocks and ranks: its
neighbours ("conv"), or sums that decay with distance ("decay"). All windows together are A times as
large as k, so they are made for a span of tokens at a time.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from tlmtool.attention._decay import following, later, sums

EPSILON = 1e-6  # added to a mean square; rows of q, k or v smaller than its root are not scaled up
PIECE = 1 << 18  # numbers of k that are normalised at once: more of them take more memory
SPAN = 1 << 18  # numbers in the windows of a span: more of them take more memory
LEAST = 64  # tokens in a piece or a span at least

State = dict[str, Tensor]


def meet(q: Tensor, core: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    """q (B, N, P, R) and windows (B, N, A, L) -> F (B, N, A A)."""
    if core is None:
        met = q.flatten(2)[:, :, None] * k
    else:
        blocks = torch.einsum("bnpr,prst->bnpst", q, core)
        met = (k.unflatten(3, q.shape[2:]).transpose(2, 3) @ blocks).transpose(2, 3).flatten(3)
    return (met @ v.mT).flatten(2)


def wide(x: Tensor) -> torch.dtype:
    """The dtype of x, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def normal(x: Tensor, real: Tensor | None) -> Tensor:
    """x (B, P, N, R) divided by its RMS over R, zero on padding, in at least float32."""
    x = (x if real is None else x.masked_fill(~real[:, None, :, None], 0)).to(wide(x))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.rsqrt(norm.square() / x.shape[-1] + EPSILON)


def conv(
    qkv: tuple[Tensor, Tensor, Tensor],
    real: Tensor | None,
    scale: Tensor,
    core: Tensor | None,
    kernel: int,
    ahead: int,
    state: State | None,
) -> tuple[Tensor, State]:
    """F with K_i[a] = k_{i-a+ahead}, from raw q, k and v (B, P, N, R), and the state after them.

    They are normalised here, and q is multiplied by `scale` (P, R). N is taken in pieces, since
    allocating memory for all of it would cost more than the arithmetic. Queries come `ahead` tokens
    late, when all that they see is there. The state is the last `kernel` - 1 rows of k and of v.
    """
    b, p, n, r = qkv[0].shape
    if state is None:
        empty = qkv[1].new_zeros(b, kernel - 1, p * r, dtype=wide(qkv[1]))
        state = {"k": empty, "v": empty}
    step, found = max(LEAST, PIECE // (b * p * r)), []
    ends = [*range(step, n + ahead, step), n + ahead]
    late = [end - ahead for end in ends]
    places = (late, ends, ends)
    pieces = [_cut(x, 2, at) for x, at in zip(qkv, places, strict=True)]
    masks = [_cut(real, 1, at) if real is not None else [None] * len(at) for at in places]
    for place, end in enumerate(ends):
        size = end - step * place
        q, k, v = (
            _filled(normal(x[place], mask[place]).transpose(1, 2), size, front)
            for x, mask, front in zip(pieces, masks, (True, False, False), strict=True)
        )
        features, state = _conv(q * scale, k.flatten(2), v.flatten(2), core, kernel, state)
        found.append(features[:, max(0, ahead - step * place) :])
    return torch.cat(found, 1).unflatten(2, (kernel, kernel)).flip(2, 3).flatten(2), state


def _cut(x: Tensor, axis: int, ends: list[int]) -> tuple[Tensor, ...]:
    """x cut at the places `ends`, as far as it reaches; by `split`, since the gradient of a slice
    is as large as the whole."""
    stops = [min(max(end, 0), x.shape[axis]) for end in (0, *ends)]
    return x.split([stop - start for start, stop in pairwise(stops)], axis)


def _filled(x: Tensor, size: int, front: bool) -> Tensor:
    """x (B, N, P, R) filled up with zero rows to `size`, at its front or at its end."""
    short = size - x.shape[1]
    return pad(x, (0, 0, 0, 0, *((short, 0) if front else (0, short)))) if short else x


def _conv(
    q: Tensor, k: Tensor, v: Tensor, core: Tensor | None, kernel: int, state: State
) -> tuple[Tensor, State]:
    """F with K_i[-a] = k_{i-a}, and the last rows of k and v."""
    n = q.shape[1]
    rows = [torch.cat([state[name], x], 1) for name, x in (("k", k), ("v", v))]
    step = _span(q, kernel, core)
    windows = (x.unfold(1, kernel, 1).mT.split(step, 1) for x in rows)
    found = [meet(q, core, k, v) for q, k, v in zip(q.split(step, 1), *windows, strict=True)]
    return torch.cat(found, 1), {name: x[:, n:].clone() for name, x in zip("kv", rows, strict=True)}


def decay(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core: Tensor | None,
    log_rates: tuple[Tensor, Tensor],
    state: State | None,
    causal: bool,
) -> tuple[Tensor, State]:
    """F with decaying sums as windows, over both sides unless `causal`, and the state after them.

    The state is the last window of k and of v.
    """
    step, found = _span(q, log_rates[0].numel(), core), []
    sides = [(x.split(step, 1), r) for x, r in zip((k, v), log_rates, strict=True)]
    if state is None:
        before = [x[0].new_zeros(x[0].shape[0], r.numel(), x[0].shape[2]) for x, r in sides]
    else:
        before = [state["k"], state["v"]]
    beyond = [] if causal else [following(x, r) for x, r in sides]
    for place, now in enumerate(q.split(step, 1)):
        windows = [sums(x[place], r, b) for (x, r), b in zip(sides, before, strict=True)]
        before = [w[:, -1] for w in windows]
        if beyond:
            both = zip(windows, sides, beyond, strict=True)
            windows = [w + later(x[place], r, b[place]) for w, (x, r), b in both]
        found.append(meet(now, core, *windows))
    return torch.cat(found, 1), {name: b.clone() for name, b in zip("kv", before, strict=True)}


def _span(q: Tensor, side: int, core: Tensor | None) -> int:
    """Tokens in a span."""
    b, _, p, r = q.shape
    return max(LEAST, SPAN // (b * p * r * (side if core is None else max(side, r))))
