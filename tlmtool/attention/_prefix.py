"""The causal product of dimension-wise attention, in linear memory: one operator and its gradient.

out_i[j] = sum_{n <= i} sum_m w[j, m] q_n[j] k_n[m] v_i[m], for q (B, H, N, J), k and v
(B, H, N, M) and w (H, J, M), each head of each text by itself. It is an operator of torch
(`tlm::prefix`), so that `torch.compile` takes it whole, meta tensors pass and the FLOP counter
knows it. With a `size`, v_i is multiplied by size_i; with an `eps`, row j is divided by
sqrt(eps + sum_{n <= i} q_n[j]^2) and v_i[m] by sqrt(eps + sum_{n <= i} k_n[m]^2): all while they
are in the cache.

With S_i = sum_{n <= i} q_n k_n^T, out_i = (w o S_i) v_i. N is cut into chunks of C tokens: S of
what lies before a chunk is a matmul and a sum, and meets the chunk by a matmul; inside a chunk,
pairs of tokens at each distance d < C: ((v_i o k_{i-d}) w^T) o q_{i-d}, without their S. Blocks of
chunks go one after the other through buffers, so nothing of size N x J x M exists.

The gradient is the operator again: prefix(g, v, k, w) with time reversed is that of q, so is
prefix(v, g, q, w^T) that of k, and prefix(k, q, g, w^T) is that of v.
"""

from math import prod

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tlmtool.attention._blocks import Blocks, cut, outer
from tlmtool.attention._heads import empty
from tlmtool.attention._linear import inverse_norms


def _run(c: int, chunks: int) -> int:
    """Tokens whose squares one matmul adds up."""
    return c if chunks % 2 else 2 * c


class _Norms:
    """The root of the sum of x^2, x (g, n, C, .), up to each token, block after block; `squares`
    is overwritten."""

    def __init__(self, x: Tensor, squares: Tensor):
        (g, n, c, width), self.found = x.shape, torch.empty_like(x)
        run = _run(c, n)
        self.upto = x.new_ones(run, run).tril().expand(g * n * c // run, run, run)
        self.x, self.squares = x, squares
        self.runs = [each.view(-1, run, width) for each in (squares, self.found)]
        self.sums = self.found.view(g, -1, run, width)
        self.ends = self.sums[:, :, -1:]
        self.past = x.new_empty(g, n * c // run + 1, 1, width)  # before each run, after the last
        self.before, self.later = self.past[:, :-1], self.past[:, 1:]
        self.first, self.last = self.past[:, 0], self.past[:, -1]

    def start(self, eps: float) -> None:
        self.last.fill_(eps)

    def __call__(self) -> Tensor:
        torch.mul(self.x, self.x, out=self.squares)
        torch.bmm(self.upto, self.runs[0], out=self.runs[1])
        self.first.copy_(self.last)
        self.later.copy_(self.ends)
        self.past.cumsum_(1)
        self.sums.add_(self.before)
        return self.found.sqrt_()


@torch.library.custom_op("tlm::prefix", mutates_args=())
def prefix(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, size: Tensor | None, eps: float | None
) -> Tensor:
    """q (B, H, N, J), k and v (B, H, N, M), w (H, J, M), size (B, 1, N, 1) a constant ->
    (B, H, N, J), in memory (B, N, H, J)."""
    blocks = Blocks((k, q, v), *w.mT.shape[1:])  # S^T: what follows is then of rows by rows,
    k_, q_, v_ = blocks.held  # which takes half the time of rows by columns
    out, y = empty(q), torch.empty_like(q_)
    kernel = torch.zeros_like(blocks.past)
    products, mapped = blocks.pairs(v_, k_), [z for _, _, z in blocks.pairs(q_, q_)]
    pairs = [
        (*vkp, vkp[2].flatten(1, 2), z, z.flatten(1, 2), y[:, :, d:], q_[:, :, : blocks.c - d])
        for d, (vkp, z) in enumerate(zip(products, mapped, strict=True))
    ]
    norms = [_Norms(q_, mapped[0]), _Norms(k_, products[0][2])] if eps is not None else []
    scaled, found = blocks.opened(v_), blocks.opened(y)
    divisors = blocks.opened(norms[0].found) if norms else None
    for place in blocks:
        texts, heads, tokens = place
        if tokens.start == 0:
            blocks.rows(kernel, texts, heads).copy_(w[heads].mT)
            for each in norms:
                each.start(eps)
        if size is not None:
            blocks.filled(scaled, place).mul_(size[texts, :, tokens])
        if norms:
            norms[0]()
            v_.div_(norms[1]())
        for d, (later, earlier, p, p_flat, z, z_flat, to, of) in enumerate(pairs):
            torch.mul(later, earlier, out=p)
            torch.bmm(p_flat, kernel, out=z_flat)
            if d:
                to.addcmul_(z, of)
            else:
                torch.mul(z, of, out=to)
        y.flatten(0, 1).baddbmm_(v_.flatten(0, 1), blocks.scan(kernel).flatten(0, 1))
        if norms:
            by = blocks.filled(divisors, place)
            torch.div(blocks.filled(found, place), by, out=out[place])
        else:
            out[place] = blocks.filled(found, place)
    return out


@torch.library.custom_op("tlm::prefix_kernel", mutates_args=())
def prefix_kernel(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `prefix` in w, (H, J, M): sum_i grad_i[j] S_i[j, m] v_i[m] of all texts."""
    j, m = q.shape[-1], k.shape[-1]
    blocks = Blocks((q, k, v, grad), j, m)
    q_, k_, v_, g_ = blocks.held
    out, crossed = q.new_zeros(q.shape[1], j, m), torch.empty_like(blocks.seen)
    found = torch.empty_like(blocks.past)
    pairs = list(zip(blocks.pairs(v_, k_), blocks.pairs(g_, q_), strict=True))
    for texts, heads, _ in blocks:
        found.zero_()
        for (v_i, k_n, p), (g_i, q_n, z) in pairs:
            torch.mul(v_i, k_n, out=p)
            torch.mul(g_i, q_n, out=z)
            found.baddbmm_(z.flatten(1, 2).mT, p.flatten(1, 2))
        outer(g_, v_, crossed).mul_(blocks.scan())
        found.add_(crossed.sum(1))
        out[heads] += blocks.rows(found, texts, heads).sum(0)
    return out


@prefix.register_fake
def _(q: Tensor, *args) -> Tensor:
    return empty(q)


@prefix_kernel.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    return q.new_empty(q.shape[1], q.shape[3], k.shape[3])


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output)


def _back(x: Tensor) -> Tensor:
    return x.flip(2)


def _gradient(ctx, grad: Tensor) -> tuple:
    q, k, v, w, size, out = ctx.saved_tensors
    needs, scale, late = list(ctx.needs_input_grad[:4]), size, grad
    if ctx.eps is not None:
        row, column = inverse_norms(q, ctx.eps), inverse_norms(k, ctx.eps)
        scale, late = column if size is None else column * size, row * grad
        needs[2] = needs[1] or needs[2]
    scaled = v if scale is None else scale * v
    of_q, of_k, of_v, of_w = _plain_gradient(late, q, k, scaled, w, needs)
    of_v = of_v if of_v is None or scale is None else scale * of_v
    if ctx.eps is not None:  # the sums of squares: d row = -row^3 q dq for each token after
        if of_q is not None:
            of_q = of_q - q * _back(_back(row.square() * grad * out).cumsum(2))
        if of_k is not None:
            of_k = of_k - k * _back(_back(column.square() * v * of_v).cumsum(2))
    return of_q, of_k, of_v, of_w, None, None


def _plain_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, w: Tensor, needs: list[bool]
) -> tuple:
    """That of q, k, v and w, where there is no eps; None where it is not needed."""
    late, seen = _back(grad), _back(v)
    return (
        _back(prefix(late, seen, _back(k), w, None, None)) if needs[0] else None,
        _back(prefix(seen, late, _back(q), w.mT, None, None)) if needs[1] else None,
        prefix(k, q, grad, w.mT, None, None) if needs[2] else None,
        prefix_kernel(q, k, v, grad) if needs[3] else None,
    )


prefix.register_autograd(_gradient, setup_context=_keep)


def prefix_flops(
    q: torch.Size, k: torch.Size, v=None, w=None, size=None, eps: float | None = None, **kwargs
) -> int:
    """FLOPs of the matmuls of `prefix`, by the shapes of q and k, padding of blocks included."""
    (j, m), (cuts, c) = (q[-1], k[-1]), cut(q, k[-1])
    chunks = prod([parts * each for parts, each in cuts])  # of all heads and texts
    norms = c * _run(c, cuts[-1][1]) * (j + m) if eps is not None else 0
    return 2 * chunks * ((c * (c + 1) // 2 + 2 * c) * j * m + norms)  # pairs; states, made and used


register_flop_formula(torch.ops.tlm.prefix)(prefix_flops)


@register_flop_formula(torch.ops.tlm.prefix_kernel)
def _kernel_flops(q: torch.Size, k: torch.Size, *args, **kwargs) -> int:
    return prefix_flops(q, k)


def by_kernel(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, size: Tensor | None, eps: float | None
) -> Tensor:
    """`prefix` of q, k, v (B, H, N, D) for each kernel of w (H, c, D, D) -> (B, H, N, c, D)"""
    c, d = w.shape[1:3]
    q = q.repeat(1, 1, 1, c) if c > 1 else q
    return prefix(q, k, v, w.flatten(1, 2), size, eps).unflatten(-1, (c, d))
