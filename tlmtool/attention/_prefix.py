"""The causal product of dimension-wise attention, in linear memory: one operator and its gradient.

out_i[j] = sum_{n <= i} sum_m w[j, m] q_n[j] k_n[m] v_i[m], for q (G, N, J), k and v (G, N, M) and
w (G, J, M), each g of G by itself. It is an operator of torch (`tlm::prefix`), so that
`torch.compile` takes it whole, meta tensors pass and the FLOP counter knows it.

With S_i = sum_{n <= i} q_n k_n^T, out_i = (w o S_i) v_i. N is cut into chunks of C tokens: S of
what lies before a chunk is a matmul and a sum, and meets the chunk by a matmul; inside a chunk,
pairs of tokens at each distance d < C: ((v_i o k_{i-d}) w^T) o q_{i-d}, without their S. Blocks of
chunks go one after the other through buffers that stay in the cache (fresh memory for each would
cost more than the arithmetic), so nothing of size N x J x M exists.

The gradient is the operator again: prefix(g, v, k, w) with time reversed is that of q, so is
prefix(v, g, q, w^T) that of k, and prefix(k, q, g, w^T) is that of v.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

CHUNK = 8  # tokens; the pairs inside a chunk and the states between cost about the same
BLOCK = 128  # tokens that go through the buffers at once
STATE = 1 << 15  # numbers in the S of the rows that go through the buffers at once


def _even(total: int, most: int) -> tuple[int, int]:
    """(parts, size of each), as few parts as sizes up to `most` allow, and about even."""
    parts = -(-total // most)
    return parts, -(-total // parts)


def _cut(groups: int, length: int, j: int, m: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """How G and the chunks of N are cut into blocks, (parts, size) each, and C."""
    c = min(CHUNK, length)
    return _even(groups, max(1, STATE // (j * m))), _even(-(-length // c), BLOCK // c), c


class _Blocks:
    """Buffers `held` (rows, chunks, C, .) that blocks of the tensors (G, N, .) go through in turn,
    zero where there are none, and what is computed of them; all views are made once."""

    def __init__(self, tensors: tuple[Tensor, ...], j: int, m: int):
        self.tensors = tensors
        self.groups, self.length, _ = tensors[0].shape
        (_, self.rows), (_, chunks), self.c = _cut(self.groups, self.length, j, m)
        self.tokens = chunks * self.c
        new = tensors[0].new_zeros
        self.held = [new(self.rows, chunks, self.c, x.shape[-1]) for x in tensors]
        self.states = new(self.rows, chunks, j, m)  # S at the end of each chunk
        self.before = new(self.rows, j, m)  # S of what lies before the block
        ends = [self.before, *self.states.unbind(1)]
        self.steps = list(zip(ends[1:], ends[:-1], strict=True))

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """(rows, tokens) of each block, once it is in the buffers; S starts at 0 with each row."""
        for g in range(0, self.groups, self.rows):
            rows = slice(g, min(g + self.rows, self.groups))
            self.before.zero_()
            for i in range(0, self.length, self.tokens):
                tokens = slice(i, min(i + self.tokens, self.length))
                for x, held in zip(self.tensors, self.held, strict=True):
                    within(held, rows, tokens).copy_(x[rows, tokens])
                    if tokens.stop - i < self.tokens:
                        held.flatten(1, 2)[:, tokens.stop - i :].zero_()
                yield rows, tokens
                self.before.copy_(self.states[:, -1])

    def scan(self) -> None:
        """States of the first two tensors, from what was before on."""
        outer(self.held[0], self.held[1], self.states)
        for state, last in self.steps:
            state.add_(last)

    def pairs(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(x_i, y_{i-d}, a buffer for their product) for each d: views, (rows, chunks, C - d, .)"""
        buffer, made = torch.empty_like(x), []
        for d in range(self.c):
            later, earlier = x[:, :, d:], y[:, :, : self.c - d]
            made.append((later, earlier, buffer.view(-1)[: later.numel()].view(later.shape)))
        return made


def within(held: Tensor, rows: slice, tokens: slice) -> Tensor:
    """The part of a buffer that a block fills, (rows, tokens, .)"""
    return held.flatten(1, 2)[: rows.stop - rows.start, : tokens.stop - tokens.start]


def outer(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """x^T y of each chunk: (g, n, C, J) and (g, n, C, M) -> (g, n, J, M)"""
    torch.bmm(x.flatten(0, 1).mT, y.flatten(0, 1), out=out.flatten(0, 1))
    return out


@torch.library.custom_op("tlm::prefix", mutates_args=())
def prefix(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """q (G, N, J), k and v (G, N, M), w (G, J, M) -> (G, N, J); one dtype."""
    blocks = _Blocks((q, k, v), *w.shape[1:])
    q_, k_, v_ = blocks.held
    out, y = q.new_empty(q.shape), torch.empty_like(q_)
    kernel, seen = torch.zeros_like(blocks.before), torch.empty_like(blocks.states)
    mapped = [z for _, _, z in blocks.pairs(q_, q_)]
    pairs = [
        (*vkp, vkp[2].flatten(1, 2), z, z.flatten(1, 2), y[:, :, d:], q_[:, :, : blocks.c - d])
        for d, (vkp, z) in enumerate(zip(blocks.pairs(v_, k_), mapped, strict=True))
    ]
    for rows, tokens in blocks:
        kernel[: rows.stop - rows.start].copy_(w[rows])
        y.zero_()
        for later, earlier, p, p_flat, z, z_flat, to, of in pairs:
            torch.mul(later, earlier, out=p)
            torch.bmm(p_flat, kernel.mT, out=z_flat)
            to.addcmul_(z, of)
        blocks.scan()
        torch.mul(blocks.before, kernel, out=seen[:, 0])  # by each chunk: w o S before it
        torch.mul(blocks.states[:, :-1], kernel[:, None], out=seen[:, 1:])
        y.flatten(0, 1).baddbmm_(v_.flatten(0, 1), seen.flatten(0, 1).mT)
        out[rows, tokens] = within(y, rows, tokens)
    return out


@torch.library.custom_op("tlm::prefix_kernel", mutates_args=())
def prefix_kernel(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `prefix` in w, (G, J, M): sum_i grad_i[j] S_i[j, m] v_i[m]."""
    j, m = q.shape[-1], k.shape[-1]
    blocks = _Blocks((q, k, v, grad), j, m)
    q_, k_, v_, g_ = blocks.held
    out, crossed = q.new_zeros(len(q), j, m), torch.empty_like(blocks.states)
    found = torch.empty_like(blocks.before)
    pairs = list(zip(blocks.pairs(v_, k_), blocks.pairs(g_, q_), strict=True))
    for rows, _ in blocks:
        found.zero_()
        for (v_i, k_n, p), (g_i, q_n, z) in pairs:
            torch.mul(v_i, k_n, out=p)
            torch.mul(g_i, q_n, out=z)
            found.baddbmm_(z.flatten(1, 2).mT, p.flatten(1, 2))
        blocks.scan()
        outer(g_, v_, crossed)
        found.addcmul_(blocks.before, crossed[:, 0])
        found.add_(crossed[:, 1:].mul_(blocks.states[:, :-1]).sum(1))
        out[rows] += found[: rows.stop - rows.start]
    return out


@prefix.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@prefix_kernel.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], k.shape[2])


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx, grad: Tensor) -> tuple:
    q, k, v, w = ctx.saved_tensors
    needs, back = ctx.needs_input_grad, lambda x: x.flip(1)
    late, seen = back(grad), back(v)
    return (
        back(prefix(late, seen, back(k), w)) if needs[0] else None,
        back(prefix(seen, late, back(q), w.mT)) if needs[1] else None,
        prefix(k, q, grad, w.mT) if needs[2] else None,
        prefix_kernel(q, k, v, grad) if needs[3] else None,
    )


prefix.register_autograd(_gradient, setup_context=_keep)


@register_flop_formula(torch.ops.tlm.prefix)
def prefix_flops(q: torch.Size, k: torch.Size, *args, **kwargs) -> int:
    """FLOPs of the matmuls of `prefix`, by the shapes of q and k, padding of blocks included."""
    (groups, length, j), m = q, k[-1]
    (parts, rows), (blocks, chunks), c = _cut(groups, length, j, m)
    pairs, states = chunks * c * (c + 1) // 2, 2 * chunks * c  # states: made, and used
    return 2 * parts * rows * blocks * (pairs + states) * j * m


@register_flop_formula(torch.ops.tlm.prefix_kernel)
def _kernel_flops(q: torch.Size, k: torch.Size, *args, **kwargs) -> int:
    return prefix_flops(q, k)
