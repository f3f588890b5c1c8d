"""Narrower MLP: its best inner neurons are kept, and its last linear makes up for the others."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tlmtool.decompositions._shapes import capped
from tlmtool.decompositions.base import Decomposition

KEPT = "kept"  # the one factor: the rows or columns of W that are kept


@dataclass(frozen=True)
class Narrow(Decomposition):
    """W (O, I) as its first R rows or columns, zeros elsewhere; R counts inner neurons of an MLP.

    `side` says where the neurons are: `out`, the rows of a linear that gives them (gate, up), or
    `in`, the columns of the one that reads them (down). Rows may stand in several `parts` one after
    another, as where gate and up are one weight; R of each are kept. `width`: neurons before.

    Neurons can be sorted without a change of the MLP, and a compression sorts them, the best first.
    With a metric C the columns S that are kept also make up for the others, by least squares:
    W C[:, S] C[S, S]^-1. A module with these factors gives or reads R neurons only, so that all
    linears of an MLP have to be cut alike.
    """

    side: str = "in"
    parts: int = 1
    width: int | None = None

    reference: ClassVar[str] = "Lin et al. 2024 (MoDeGPT): its Nystroem step"
    alone: ClassVar[bool] = False
    takes_lora: ClassVar[bool] = True
    chain: ClassVar[tuple[str, ...]] = (KEPT,)

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        o, i = out_features, in_features
        full = i if self.side == "in" else o // self.parts
        if self.side not in ("in", "out") or (self.side == "out" and full * self.parts != o):
            raise ValueError(
                f"side {self.side} in {self.parts} parts does not suit a weight ({o}, {i})"
            )
        if self.width not in (None, full):
            raise ValueError(f"width {self.width} is not {full}, that of a weight ({o}, {i})")
        r = capped(self.rank, (full,), f"a weight ({o}, {i})")[0]
        return {KEPT: (o, r) if self.side == "in" else (self.parts * r, i)}

    def _weighed(
        self, weight: Tensor, metric: Tensor | None, output_metric: Tensor | None
    ) -> dict[str, Tensor]:
        r = self.shapes(*weight.shape)[KEPT][1]
        if self.side == "out":
            return {KEPT: self.cut(weight).clone()}
        if metric is None or metric.ndim == 1 or r == weight.shape[1] or not metric.any():
            return {KEPT: weight[:, :r]}
        metric = metric.to(weight)
        moved = torch.linalg.solve(metric[:r, :r], metric[:r, r:] @ weight[:, r:].mT).mT
        return {KEPT: weight[:, :r] + moved}

    def cut(self, rows: Tensor) -> Tensor:
        if self.side == "in" or self.rank is None:
            return rows
        return rows.unflatten(0, (self.parts, -1))[:, : self.rank].flatten(0, 1)

    def pad(self, rows: Tensor) -> Tensor:
        if self.side == "in" or self.width is None:
            return rows
        parts = rows.unflatten(0, (self.parts, -1))
        sides = (0, 0) * (parts.ndim - 2) + (0, self.width - parts.shape[1])
        return functional.pad(parts, sides).flatten(0, 1)

    def plus(
        self, factors: dict[str, Tensor], b: Tensor, a: Tensor
    ) -> tuple["Narrow", dict[str, Tensor]]:
        kept = factors[KEPT]
        return self, {KEPT: kept + (b @ a).to(kept)}

    def reconstruct(self, factors: dict[str, Tensor]) -> Tensor:
        kept = factors[KEPT]
        if self.side == "out" or self.width is None:
            return self.pad(kept)
        return functional.pad(kept, (0, self.width - kept.shape[1]))

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        kept = factors[KEPT]
        if self.side == "in":
            return x[..., : kept.shape[1]] @ kept.mT
        return self.pad((x @ kept.mT).movedim(-1, 0)).movedim(0, -1)
