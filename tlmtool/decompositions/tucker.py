"""Tucker decomposition: W as an order-3 core times a matrix in each mode."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import capped, heads
from tlmtool.decompositions.base import Decomposition, unweigh, weigh


@dataclass(frozen=True)
class Tucker(Decomposition):
    """W (H, D, I) = core (R1, R2, R3) x1 a (H, R1) x2 b (D, R2) x3 c (I, R3); a BTD of one block.

    R counts the columns in each mode, and is capped at the size of the mode. `modes` (H, D) says
    how O is split: into heads and their width for an attention projection, else balanced. HOOI.
    """

    modes: tuple[int, int] | None = None
    takes_heads: ClassVar[bool] = True
    automatic: ClassVar[bool] = True
    slack: ClassVar[float] = 0.005
    reference: ClassVar[str] = "Tucker 1966; De Lathauwer et al. 2000 (HOOI)"

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        modes = (*heads(self.modes, out_features), in_features)
        ranks = capped(self.rank, modes, f"a weight {modes}")
        return {"core": ranks, **{k: (m, r) for k, m, r in zip("abc", modes, ranks, strict=True)}}

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        shapes = self.shapes(*weight.shape)
        tensor = weigh(weight, s).reshape(1, shapes["a"][0], shapes["b"][0], -1)
        b, c = leading(tensor, 2, shapes["b"][1]), leading(tensor, 3, shapes["c"][1])
        for _ in range(10 if self.rank else 1):
            core, a, b, c = sweep(tensor, b, c, shapes["core"])
        return {"core": core[0], "a": a[0], "b": b[0], "c": unweigh(c[0], s)}

    def matrices(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        left = torch.einsum("xyz,hx,dy->hdz", factors["core"], factors["a"], factors["b"])
        return left.flatten(0, 1), factors["c"].mT

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        y = by_modes(x, {k: f[None] for k, f in factors.items()})
        return super().apply(x, factors) if y is None else y


def by_modes(x: Tensor, blocks: dict[str, Tensor]) -> Tensor | None:
    """x (..., I) -> x W^T (..., H D) through each mode of blocks in turn, so that nothing of the
    size of W is made; None where that costs more than to multiply core, a and b out first.

    Blocks: core (P, R1, R2, R3), a (P, H, R1), b (P, D, R2), c (P, I, R3). It is the way for few
    tokens: those of a text that is being generated.
    """
    core, a, b, c = (blocks[k] for k in ("core", "a", "b", "c"))
    (_, r1, r2, r3), h, d, i = core.shape, a.shape[1], b.shape[1], c.shape[1]
    tokens = x.numel() // x.shape[-1]
    each = r3 * i + r1 * r2 * r3 + h * r1 * r2 + h * d * r2  # multiplications of one token
    if tokens * each >= h * r1 * r2 * r3 + h * d * r2 * r3 + tokens * r3 * (i + h * d):
        return None
    y = x.reshape(tokens, i) @ c @ core.flatten(1, 2).mT  # (P, B, R1 R2)
    y = a[:, None] @ y.unflatten(2, (r1, r2)) @ b[:, None].mT  # (P, B, H, D)
    return y.sum(0).reshape(*x.shape[:-1], h * d)


def top(m: Tensor, r: int) -> Tensor:
    """The r leading left singular vectors of each m (B, n, k), orthonormal (B, n, r)."""
    if m.shape[1] <= m.shape[2]:
        return torch.linalg.eigh(m @ m.mT)[1][..., -r:]
    if r > m.shape[2]:  # more columns than the unfolding has: complete the basis
        return torch.linalg.qr(m, mode="complete")[0][..., :r]
    rows = torch.linalg.eigh(m.mT @ m)[1][..., -r:].mT
    return torch.linalg.qr((rows @ m.mT).mT)[0]


def leading(tensor: Tensor, mode: int, r: int) -> Tensor:
    """The r leading singular vectors of the unfolding of tensor (B, H, D, I) along `mode`."""
    return top(tensor.movedim(mode, 1).flatten(2), r)


def through(tensor: Tensor, c: Tensor, less: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Tensor (B, H, D, I) times c (B, I, R3), with the new mode in front: (B, R3, H, D).

    `less`: left (B, K, H, D) and right (B, K, I). The sum of their products over K is subtracted
    from the tensor first, without being formed. Thin factors stand on the left here and in `sweep`,
    which BLAS computes up to three times as fast.
    """
    tc = c.mT @ tensor.flatten(1, 2).mT
    if less is not None:
        left, right = less
        tc = tc.baddbmm(c.mT @ right.mT, left.flatten(2), alpha=-1)
    return tc.unflatten(2, tensor.shape[1:3])


def sweep(
    tensor: Tensor,
    b: Tensor,
    c: Tensor,
    ranks: tuple[int, ...],
    less: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """One HOOI sweep on tensor (B, H, D, I), from b (B, D, R2) and c (B, I, R3); `less`: `through`.

    Returns core (B, R1, R2, R3), a (B, H, R1), b and c. The error does not grow.
    """
    tc = through(tensor, c, less)
    a = top((tc @ b[:, None]).movedim(1, 2).flatten(2), ranks[0])
    b = top((a.mT[:, None] @ tc).flatten(1, 2).mT, ranks[1])
    ah, bh = a.mT, b.mT[:, None]
    tab = (ah @ (bh @ tensor).flatten(2)).reshape(len(a), -1, tensor.shape[3])  # (B, R1 R2, I)
    if less is not None:
        left, right = less
        tab = tab.baddbmm((ah[:, None] @ left @ b[:, None]).flatten(2).mT, right, alpha=-1)
    c = top(tab.mT, ranks[2])
    core = (tab @ c).unflatten(1, (a.shape[2], b.shape[2]))
    return core, a, b, c
