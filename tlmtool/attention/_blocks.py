"""Long tensors, taken block by block through buffers that stay in a CPU's cache.

Allocating memory for every block would cost more than its arithmetic.
"""

from collections.abc import Iterator
from itertools import pairwise, product

import torch
from torch import Tensor

# Other values change speed and memory only.
CHUNK = 8  # tokens in a chunk: the pairs inside it then cost about as much as the states between
BLOCK = 256  # tokens that go through the buffers at once
STATE = 1 << 15  # numbers in the states S of the rows that go through the buffers at once
PARTS = 2  # parts of a block whose states are summed side by side, so that threads have work
NARROW = 64  # a narrower row counts as this wide, since its tokens take room too


def _even(total: int, most: int) -> tuple[int, int]:
    """(parts, size of each): as few parts as sizes up to `most` allow, about even."""
    parts = -(-total // most)
    return parts, -(-total // parts)


def cut(shape: tuple[int, ...], m: int) -> tuple[list[tuple[int, int]], int]:
    """How B, H and the chunks of N are cut into blocks, (parts, size) each; and C."""
    batch, heads, length, j = shape
    c = min(CHUNK, length)
    most = max(1, STATE // (max(j, NARROW) * m))
    few = _even(heads, most)
    texts = _even(batch, max(1, most // few[1]))
    return [texts, few, _even(-(-length // c), max(1, BLOCK // c))], c


Place = tuple[slice, slice, slice]  # texts, heads, tokens


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, total)) for i in range(0, total, size))


class Blocks:
    """Buffers `held` (rows, chunks, C, .) that blocks of tensors (B, H, N, .) go through in turn.

    They are zero past the end of a tensor. A row is one head of one text. All views are made once.
    """

    def __init__(self, tensors: tuple[Tensor, ...], j: int, m: int):
        self.tensors = tensors
        ((_, texts), (_, heads), (_, chunks)), self.c = cut(tensors[0].shape, m)
        self.sizes, self.few = (texts, heads, chunks * self.c), (texts, heads)
        rows, new = texts * heads, tensors[0].new_zeros
        self.held = [new(rows, chunks, self.c, x.shape[-1]) for x in tensors]
        parts = min(PARTS, torch.get_num_threads()) if chunks % PARTS == 0 else 1
        start = new(rows, parts, j, m)
        self.past = start[:, 0]  # S before the block
        states = tensors[0].new_empty(rows * chunks + 1, j, m)  # S after each chunk, and before it
        self.after, self.seen = (x.unflatten(0, (rows, chunks)) for x in (states[1:], states[:-1]))
        split = self.after.unflatten(1, (parts, -1))
        self.steps = list(pairwise([start, *split.unbind(2)]))
        self.joints = [(x[:, -1:], later) for x, later in pairwise(split.unbind(1))]
        self.first, self.last = self.seen[:, 0], self.after[:, -1]

    def __iter__(self) -> Iterator[Place]:
        """The place (texts, heads, tokens) of each block, when it is in the buffers."""
        texts, heads, tokens = (
            list(_slices(total, size))
            for total, size in zip(self.tensors[0].shape[:3], self.sizes, strict=True)
        )
        opened = [self.opened(x) for x in self.held]
        for b, h in product(texts, heads):
            self.past.zero_()
            for place in ((b, h, n) for n in tokens):
                for x, held in zip(self.tensors, opened, strict=True):
                    if place[2].stop - place[2].start < self.sizes[2]:
                        held.zero_()
                    self.filled(held, place).copy_(x[place])
                yield place

    def rows(self, buffer: Tensor, b: slice, h: slice) -> Tensor:
        """The part (texts, heads, ...) of a buffer (rows, ...) that these texts and heads fill."""
        return buffer.unflatten(0, self.few)[: b.stop - b.start, : h.stop - h.start]

    def opened(self, buffer: Tensor) -> Tensor:
        """A buffer (rows, chunks, C, .) as (texts, heads, tokens, .)."""
        return buffer.flatten(1, 2).unflatten(0, self.few)

    def filled(self, opened: Tensor, place: Place) -> Tensor:
        """The part of an opened buffer that the block at `place` fills."""
        sizes = tuple(each.stop - each.start for each in place)
        return opened if sizes == self.sizes else opened[tuple(map(slice, sizes))]

    def scan(self, weights: Tensor | None = None) -> Tensor:
        """S of the first two tensors before each chunk, (rows, chunks, J, M), times `weights`.

        `weights` is (rows, J, M). The result lives in a buffer that the next scan overwrites; the
        next scan continues where this block ends.
        """
        outer(self.held[0], self.held[1], self.after)
        weights = weights if weights is None else weights[:, None]
        for last, state in self.steps:
            if weights is None:
                state.add_(last)
            else:
                torch.addcmul(last, state, weights, out=state)
        for end, later in self.joints:
            later.add_(end)
        last = self.last.clone()
        self.first.copy_(self.past)  # it held the last state of the row above
        self.past.copy_(last)
        return self.seen

    def pairs(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(x_i, y_{i-d}, a buffer for their product) of each d: views (rows, chunks, C - d, .)."""
        buffer, made = torch.empty_like(x), []
        for d in range(self.c):
            later, earlier = x[:, :, d:], y[:, :, : self.c - d]
            made.append((later, earlier, buffer.view(-1)[: later.numel()].view(later.shape)))
        return made


def outer(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """x^T y of each chunk: (g, n, C, J) and (g, n, C, M) -> (g, n, J, M)."""
    torch.bmm(x.flatten(0, 1).mT, y.flatten(0, 1), out=out.flatten(0, 1))
    return out
