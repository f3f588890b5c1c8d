"""sum_{jk} T[i,j,k] W[j,k,:] for a W^O of one length, without a tensor of N^3 numbers.

T[i,j,k] = sum_l q_i[l] X[l,j,k] over l = (p, r). X is K_j V_k elementwise for a diagonal core, and
G_p contracted with K_j and V_k for a full one. The product q X W is computed as q (X W), through
M = X W (L, E), or as (q X) W, called dense, whichever costs less. A causal product goes through the
M of all pairs before a chunk of queries, and is dense on the pairs that the chunk adds. X is made
in pieces, and made again for the gradient.
"""

from math import gcd
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE = 1 << 20  # numbers of X, and of T, in memory at once: a larger piece takes more memory
CHUNK = 8  # queries in a causal chunk: more make more pairs dense, fewer make more steps
PARTS = 8  # matrix products that the sum over pairs is cut into; threads share one of L rows badly

Sum = Tensor | int  # 0 until something was added
Held = tuple[Tensor, Tensor, Tensor | None]  # k, v, core


def mix(q: Tensor, k: Tensor, v: Tensor, core: Tensor | None, w: Tensor, causal: bool) -> Tensor:
    """q, k, v (B, P, N, R), core (P, R, R, R) or None, w (>= N, >= N, E) -> (B, N, E)."""
    n, queries = q.shape[2], q.transpose(1, 2).flatten(2)  # (B, N, L)
    sizes, whole = (n, queries.shape[2], w.shape[2]), range(n)
    tensors, w = (k, v, core), w[:n, :n]
    if causal:
        return _causal(queries, tensors, w, chunk_of(*sizes))
    if through_is_cheaper(*sizes):
        return queries @ cast(Tensor, _over(whole, whole, tensors, w, through=True)[1])
    return cast(Tensor, _over(whole, whole, tensors, w, queries)[0])


def _causal(queries: Tensor, tensors: Held, w: Tensor, chunk: int) -> Tensor:
    n = queries.shape[1]
    found: list[Tensor] = []
    m: Sum = 0
    split = (x.split(chunk, axis) for x, axis in ((queries, 1), (w, 0), (w, 1)))
    for place, (now, rows, columns) in enumerate(zip(*split, strict=True)):
        s, e = place * chunk, place * chunk + now.shape[1]
        y: Sum = now @ m if s else 0
        shell = [(range(s, e), range(e), rows[:, :e]), (range(s), range(s, e), columns[:s])]
        for js, ks, part in shell[: 2 if s else 1]:  # the pairs with j or k in the chunk
            dense, added = _over(js, ks, tensors, part, now, s, through=e < n)
            y, m = y + dense, m + added
        found.append(cast(Tensor, y))
    return torch.cat(found, 1)


def through_is_cheaper(n: int, rank: int, features: int) -> bool:
    """Whether q (X W) takes fewer multiply-adds than (q X) W; `rank` is L, `features` E."""
    return n * rank * features * (n + 1) <= n**3 * (rank + features)


def chunk_of(n: int, rank: int, features: int) -> int:
    """Queries in a chunk: CHUNK, or all N (dense, without M) if that costs less."""

    def cost(chunk: int) -> int:
        total = 0
        for s in range(0, n, chunk):
            e = min(s + chunk, n)
            pairs, through = e * e - s * s, rank * features
            total += (e - s) * pairs * (rank + features)
            total += (e - s) * through * (s > 0) + pairs * through * (e < n)
        return total

    return min((CHUNK, n), key=cost)


def _over(
    js: range,
    ks: range,
    tensors: Held,
    w: Tensor,
    queries: Tensor | None = None,
    first: int | None = None,
    through: bool = False,
) -> tuple[Sum, Sum]:
    """((q X) W (B, N, E) if there are queries, X W (B, L, E) if `through`), over pairs of j and k.

    w (J, K, E) is that of these pairs. The shorter range is taken in pieces, by `split`, since the
    gradient of a slice is as large as the whole. If causal, `first` is the place of the first
    query.
    """
    (b, p, _, r), turned = tensors[0].shape, len(js) > len(ks)
    short, long = (ks, js) if turned else (js, ks)
    step = max(1, PIECE // (b * len(long) * max(p * r, 0 if queries is None else queries.shape[1])))
    step -= step % PARTS if step > PARTS else 0
    y: Sum = 0
    m: Sum = 0
    for place, part in enumerate(w.split(step, int(turned))):
        piece = short[place * step : (place + 1) * step]
        pairs = (long, piece) if turned else (piece, long)
        given = *pairs, *tensors, part, queries, first, through
        if torch.is_grad_enabled():
            more = checkpoint(_piece, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            more = _piece(*given)
        y, m = y + more[0], m + more[1]
    return y, m


def _piece(
    js: range,
    ks: range,
    k: Tensor,
    v: Tensor,
    core: Tensor | None,
    w: Tensor,
    queries: Tensor | None,
    first: int | None,
    through: bool,
) -> tuple[Sum, Sum]:
    """One piece of `_over`."""
    j, k_ = slice(js.start, js.stop), slice(ks.start, ks.stop)
    x = outer(k[:, :, j], v[:, :, k_], core)  # (B, L, J, K)
    w = w.to(x.dtype)
    if queries is None:
        return 0, _through(x, w)
    x, w = x.flatten(2), w.reshape(-1, w.shape[2])
    t = queries @ x  # (B, N, J K)
    if first is not None:
        i = first + torch.arange(t.shape[1], device=t.device)[:, None]
        seen = [torch.arange(a.start, a.stop, device=t.device) <= i for a in (js, ks)]
        t = t.masked_fill(~(seen[0][:, :, None] & seen[1][:, None]).flatten(1), 0)
    return t @ w, x @ w if through else 0


def _through(x: Tensor, w: Tensor) -> Tensor:
    """X W, the sum over pairs in parts: (B, L, J, K) and (J, K, E) -> (B, L, E)."""
    b, parts = x.shape[0], gcd(PARTS, x.shape[2])
    x = x.flatten(0, 1).unflatten(1, (parts, -1)).flatten(2)  # (B L, parts, .)
    w = w.unflatten(0, (parts, -1)).flatten(1, 2)
    return (x.transpose(0, 1) @ w).sum(0).unflatten(0, (b, -1))


def outer(k: Tensor, v: Tensor, core: Tensor | None) -> Tensor:
    """X (B, L, J, K) of k (B, P, J, R), v (B, P, K, R) and a core, the shorter one first."""
    if core is None:
        k, v = k.mT.contiguous(), v.mT.contiguous()  # otherwise R would be contiguous in X
        x = k[..., None] * v[..., None, :]  # (B, P, R, J, K)
    elif k.shape[2] <= v.shape[2]:
        x = torch.einsum("bpjs,prst->bprjt", k, core) @ v.mT[:, :, None]
    else:
        x = k[:, :, None] @ torch.einsum("bpkt,prst->bprsk", v, core)
    return x.flatten(1, 2)


def seen(
    q: Tensor, k: Tensor, v: Tensor, core: Tensor | None, rows: Tensor, causal: bool
) -> Tensor:
    """T[i] of the queries at `rows` (M,) of one text: what W maps, (M, N, N), in pieces of j."""
    n, queries = q.shape[2], q.transpose(1, 2).flatten(2)[0, rows]  # (M, L)
    parts = k.split(max(1, PIECE // (n * queries.shape[1])), 2)
    t = torch.cat([(queries @ outer(part, v, core)[0].flatten(1)) for part in parts], 1)
    t = t.unflatten(1, (n, n))
    if causal:
        before = torch.arange(n, device=t.device) <= rows[:, None]
        t = t * before[:, :, None] * before[:, None]
    return t


def places(real: Tensor | None, n: int) -> tuple[Tensor | None, Tensor | None]:
    """(B, N) each: the order that puts the first real token first, and the order back."""
    if real is None:
        return None, None
    first, each = real.int().argmax(1, keepdim=True), torch.arange(n, device=real.device)
    return (each + first) % n, (each - first) % n


def moved(x: Tensor, places: Tensor | None, axis: int) -> Tensor:
    """x (B, ...) with `axis` in the order of `places` (B, N); as it is for None."""
    if places is None:
        return x
    shape = [x.shape[0] if a == 0 else x.shape[axis] if a == axis else 1 for a in range(x.ndim)]
    return torch.take_along_dim(x, places.reshape(shape), axis)
