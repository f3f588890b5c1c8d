"""The causal product of dimension-wise attention in linear memory: an operator and its gradient.

out_i[j] = sum_{n <= i} sum_m w[j, m] q_n[j] k_n[m] v_i[m], for q (B, H, N, J), k and v
(B, H, N, M) and w (H, J, M), for each head of each text. It is an operator of torch
(`tlm::prefix`): `torch.compile` takes it whole, it runs on the meta device, and the FLOP counter
knows it. With a `size`, v_i is multiplied by size_i. With an `eps`, row j is divided by
sqrt(eps + sum_{n <= i} q_n[j]^2) and v_i[m] by sqrt(eps + sum_{n <= i} k_n[m]^2). Both happen
while the numbers are in the cache.

With S_i = sum_{n <= i} q_n k_n^T, out_i = (w o S_i) v_i. N is cut into chunks of C tokens. The S
of all tokens before a chunk is a matrix product and a sum; one more product applies it to the
chunk. Inside a chunk, pairs of tokens at each distance d < C give ((v_i o k_{i-d}) w^T) o q_{i-d},
without their S. Blocks of chunks go through buffers one after the other, so no tensor of size
N x J x M exists.

The gradient uses the same operator: prefix(g, v, k, w) with time reversed is the gradient of q,
prefix(v, g, q, w^T) with time reversed that of k, and prefix(k, q, g, w^T) that of v.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tlmtool.attention import _plain
from tlmtool.attention._blocks import Blocks, cut, outer
from tlmtool.attention._heads import empty
from tlmtool.attention._linear import inverse_norms


def _run(c: int, chunks: int) -> int:
    """Tokens whose squares one matrix product sums up."""
    return c if chunks % 2 else 2 * c


class _Norms:
    """sqrt(eps + the sum of x^2 up to each token), x (g, n, C, .), block after block.

    `squares`, a buffer of the size of x, is overwritten.
    """

    def __init__(self, x: Tensor, squares: Tensor, eps: float):
        self.eps = eps
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

    def start(self) -> None:
        """Begin a row."""
        self.last.fill_(self.eps)

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
    """q (B, H, N, J), k and v (B, H, N, M), w (H, J, M) -> (B, H, N, J), laid out as (B, N, H, J).

    `size` (B, 1, N, 1) is a constant: it gets no gradient.
    """
    blocks = Blocks((k, q, v), *w.mT.shape[1:])  # with S^T the products are of rows by rows,
    k_, q_, v_ = blocks.held  # which takes half the time of rows by columns
    out, y = empty(q), torch.empty_like(q_)
    kernel = torch.zeros_like(blocks.past)
    products, mapped = blocks.pairs(v_, k_), [z for _, _, z in blocks.pairs(q_, q_)]
    pairs = [
        (*vkp, vkp[2].flatten(1, 2), z, z.flatten(1, 2), y[:, :, d:], q_[:, :, : blocks.c - d])
        for d, (vkp, z) in enumerate(zip(products, mapped, strict=True))
    ]
    norms = []
    if eps is not None:
        norms = [_Norms(q_, mapped[0], eps), _Norms(k_, products[0][2], eps)]
    scaled, found = blocks.opened(v_), blocks.opened(y)
    divisors = blocks.opened(norms[0].found) if norms else None
    for place in blocks:
        texts, heads, tokens = place
        if tokens.start == 0:
            blocks.rows(kernel, texts, heads).copy_(w[heads].mT)
            for each in norms:
                each.start()
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
        if divisors is not None:
            by = blocks.filled(divisors, place)
            torch.div(blocks.filled(found, place), by, out=out[place])
        else:
            out[place] = blocks.filled(found, place)
    return out


@torch.library.custom_op("tlm::prefix_kernel", mutates_args=())
def prefix_kernel(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `prefix` in w, (H, J, M): sum_i grad_i[j] S_i[j, m] v_i[m] over all texts."""
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
def _(q: Tensor, *args: Any) -> Tensor:
    return empty(q)


@prefix_kernel.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    return q.new_empty(q.shape[1], q.shape[3], k.shape[3])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output)


def _back(x: Tensor) -> Tensor:
    return x.flip(2)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
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
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v and w without an eps; None for those that are not needed."""
    late, seen = _back(grad), _back(v)
    return (
        _back(prefix(late, seen, _back(k), w, None, None)) if needs[0] else None,
        _back(prefix(seen, late, _back(q), w.mT, None, None)) if needs[1] else None,
        prefix(k, q, grad, w.mT, None, None) if needs[2] else None,
        prefix_kernel(q, k, v, grad) if needs[3] else None,
    )


prefix.register_autograd(_gradient, setup_context=_keep)


def prefix_flops(
    q: tuple[int, ...],
    k: tuple[int, ...],
    v: Any = None,
    w: Any = None,
    size: Any = None,
    eps: float | None = None,
    **kwargs: Any,
) -> int:
    """FLOPs of the matrix products of `prefix`, from the shapes of q and k, padding included."""
    (j, m), (cuts, c) = (q[-1], k[-1]), cut(q, k[-1])
    chunks = prod([parts * each for parts, each in cuts])  # of all heads and texts
    norms = c * _run(c, cuts[-1][1]) * (j + m) if eps is not None else 0
    return 2 * chunks * ((c * (c + 1) // 2 + 2 * c) * j * m + norms)  # pairs; states made and used


register_flop_formula(torch.ops.tlm.prefix)(prefix_flops)


@register_flop_formula(torch.ops.tlm.prefix_kernel)
def _kernel_flops(q: torch.Size, k: torch.Size, *args: Any, **kwargs: Any) -> int:
    return prefix_flops(q, k)


def by_kernel(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, size: Tensor | None, eps: float | None
) -> Tensor:
    """`prefix` of q, k, v (B, H, N, D) for each kernel of w (H, c, D, D) -> (B, H, N, c, D)."""
    c, d = w.shape[1:3]
    q = q.repeat(1, 1, 1, c) if c > 1 else q
    product = _plain.prefix if _plain.plain() else prefix
    return product(q, k, v, w.flatten(1, 2), size, eps).unflatten(-1, (c, d))
