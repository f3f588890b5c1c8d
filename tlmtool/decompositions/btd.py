"""Block-term decomposition: W as a sum of P Tucker blocks of rank R."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import capped, heads
from tlmtool.decompositions.base import Decomposition, unweigh, weigh
from tlmtool.decompositions.tucker import by_modes, sweep, through, top

SWEEPS = 8  # passes over all blocks: with more the error falls a little, and time grows in step
ROUGH = 2  # the same where `--method auto` only compares


@dataclass(frozen=True)
class BTD(Decomposition):
    """W (H, D, I) = sum_{p<P} core_p x1 a_p (H, R1) x2 b_p (D, R2) x3 c_p (I, R3).

    R counts the columns in each mode, and is capped at the size of the mode; `blocks` is P. With
    P = 1 it is Tucker, with R = 1 CP. `modes` (H, D) says how O is split: into heads and their
    width for an attention projection, else balanced.

    tensorly has no BTD. This one runs HOOI on one block after the other, which never increases the
    error. The first blocks come from greedy deflation: their b and c are taken from chunks of the
    singular vectors of W.
    """

    blocks: int = 1
    modes: tuple[int, int] | None = None
    sweeps: ClassVar[int] = SWEEPS
    precision: ClassVar[torch.dtype] = torch.float64
    takes_heads: ClassVar[bool] = True
    automatic: ClassVar[bool] = True
    slack: ClassVar[float] = 0.005
    reference: ClassVar[str] = (
        "De Lathauwer 2008 (BTD); Ma et al. 2019 (A Tensorized Transformer), eq. 4"
    )

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        if self.blocks < 1:
            raise ValueError(f"blocks {self.blocks} is below 1")
        modes = (*heads(self.modes, out_features), in_features)
        ranks = capped(self.rank, modes, f"a weight {modes}")
        p = self.blocks
        factors = {k: (p, m, r) for k, m, r in zip("abc", modes, ranks, strict=True)}
        return {"core": (p, *ranks), **factors}

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        found = self.decompose_batch(weigh(weight, s)[None].to(self.precision))
        found = {k: f.double() for k, f in found.items()}
        return {k: (unweigh(f[0], s) if k == "c" else f[0]) for k, f in found.items()}

    def rough(self) -> "BTD":
        return _Rough(**vars(self))

    def decompose_batch(self, weights: Tensor) -> dict[str, Tensor]:
        """Weights (B, O, I) of one shape -> factors with a leading B, in their dtype."""
        shapes = self.shapes(*weights.shape[1:])
        ranks, (h, d) = shapes["core"][1:], (shapes["a"][1], shapes["b"][1])
        tensor = weights.reshape(-1, h, d, weights.shape[2])
        n, r = len(tensor), ranks[2]
        left = tensor.new_zeros(n, self.blocks * r, h, d)  # block p without its c,
        right = tensor.new_zeros(n, self.blocks * r, tensor.shape[3])  # and its c
        blocks: list[tuple[Tensor, ...]] = [()] * self.blocks

        def improve(p: int, b: Tensor, c: Tensor) -> None:
            """Fit block p to what the other blocks leave over, starting from b and c."""
            part = slice(p * r, (p + 1) * r)
            left[:, part] = 0
            core, a, b, c = blocks[p] = sweep(tensor, b, c, ranks, (left, right))
            left[:, part] = torch.einsum("nxyz,nhx,ndy->nzhd", core, a, b)
            right[:, part] = c.mT

        for p, c in enumerate(self._chunks(tensor, r)):
            b = top(through(tensor, c, (left, right)).flatten(1, 2).mT, ranks[1])
            improve(p, b, c)
            improve(p, *blocks[p][2:])
        for _ in range(self.sweeps if self.blocks > 1 else 4):
            for p, block in enumerate(blocks):
                improve(p, *block[2:])
        return {
            k: torch.stack(f, 1) for k, f in zip(shapes, zip(*blocks, strict=True), strict=True)
        }

    def _chunks(self, tensor: Tensor, r: int) -> list[Tensor]:
        """P first values of c: consecutive chunks of the right singular vectors of W."""
        total = min(self.blocks * r, tensor.shape[3])
        basis = top(tensor.flatten(1, 2).mT, total).flip(2)
        chunks = [basis[..., p * r : (p + 1) * r] for p in range(self.blocks)]
        return [c if c.shape[2] == r else basis[..., -r:] for c in chunks]

    def matrices(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        left = torch.einsum("pxyz,phx,pdy->hdpz", *(factors[k] for k in ("core", "a", "b")))
        return left.flatten(2).flatten(0, 1), factors["c"].mT.flatten(0, 1)

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        y = by_modes(x, factors)
        return super().apply(x, factors) if y is None else y


class _Rough(BTD):
    """With fewer sweeps, in float32."""

    sweeps = ROUGH
    precision = torch.float32
