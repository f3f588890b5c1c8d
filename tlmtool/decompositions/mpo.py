"""Matrix product operator (tensor-train matrix): W as a chain of order-4 cores."""

from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tlmtool.decompositions._shapes import factorized
from tlmtool.decompositions.base import Decomposition

Modes = tuple[tuple[int, ...], tuple[int, ...]]  # of the outputs, of the inputs


@dataclass(frozen=True)
class MPO(Decomposition):
    """W (I1 .. IK, J1 .. JK) = T_1 .. T_K, T_k (d_{k-1}, i_k, j_k, d_k), d_0 = d_K = 1.

    R caps every inner rank d_k; without R they are full and the chain is exact.

    `modes` ((i_1 .. i_K), (j_1 .. j_K)) are the sizes that O and I are split into, outputs first;
    by default `order` balanced factors. A core with i = j = 1 between others starts as an identity.
    `crop` is the (O, I) of a weight that is smaller than its modes; it is padded with zeros.

    TT-SVD in balanced gauge: neighbouring cores share their singular values. (tensorly's leaves all
    of the norm in the last core.)
    """

    order: int = 3
    modes: Modes | None = None
    crop: tuple[int, int] | None = None
    reference: ClassVar[str] = "Oseledets 2011 (TT-SVD); Gao et al. 2023 (OPF), eq. 1"
    takes_metric: ClassVar[bool] = False

    def _sizes(self, out_features: int, in_features: int) -> tuple[Modes, list[int]]:
        """The sizes of the modes, and the rank before each core and after the last."""
        if self.order < 1:
            raise ValueError(f"order {self.order} is below 1")
        outs, ins = self.modes or (
            factorized(out_features, self.order),
            factorized(in_features, self.order),
        )
        small = self.crop and prod(outs) >= out_features and prod(ins) >= in_features
        whole = prod(outs) == out_features and prod(ins) == in_features
        if self.crop not in (None, (out_features, in_features)):
            raise ValueError(f"crop {self.crop} is not ({out_features}, {in_features})")
        if not (small or whole) or len(outs) != len(ins):
            raise ValueError(
                f"modes {outs} and {ins} do not make a weight ({out_features}, {in_features})"
            )
        sizes = [i * j for i, j in zip(outs, ins, strict=True)]
        full = [min(prod(sizes[:k]), prod(sizes[k:])) for k in range(1, len(sizes))]
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank {self.rank} is below 1")
        if self.rank is not None and self.rank > max(full, default=1):
            raise ValueError(
                f"rank {self.rank} is above {max(full, default=1)}, the largest rank of a weight "
                f"({out_features}, {in_features}) split into {outs} and {ins}"
            )
        return (outs, ins), [1, *(min(b, self.rank or b) for b in full), 1]

    def shapes(self, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
        (outs, ins), ranks = self._sizes(out_features, in_features)
        return {
            f"core{k}": (ranks[k], *ij, ranks[k + 1])
            for k, ij in enumerate(zip(outs, ins, strict=True))
        }

    def _factors(self, weight: Tensor, s: Tensor | None) -> dict[str, Tensor]:
        shapes = list(self.shapes(*weight.shape).values())
        order = len(shapes)
        outs, ins = [x[1] for x in shapes], [x[2] for x in shapes]
        padding = (0, prod(ins) - weight.shape[1], 0, prod(outs) - weight.shape[0])
        tensor = torch.nn.functional.pad(weight, padding).reshape(*outs, *ins)
        tensor = tensor.permute([m for k in range(order) for m in (k, order + k)])
        exact = shapes == list(replace(self, rank=None).shapes(*weight.shape).values())
        cores = _chain(tensor, shapes, balanced=exact)
        if not exact:  # balanced earlier, the cores would weigh what the later ones leave out
            _balance(cores)
        return {f"core{k}": core for k, core in enumerate(cores)}

    def reconstruct(self, factors: dict[str, Tensor]) -> Tensor:
        cores = list(factors.values())
        right, left = _rebuilding(cores[::-1]), _rebuilding(cores)
        if right < left:
            w = reduce(lambda done, core: _joined(core, done), cores[::-1])
        else:
            w = reduce(_joined, cores)
        w = w[0, ..., 0]
        return w if self.crop is None else w[: self.crop[0], : self.crop[1]]

    def rebuild_flops(self, out_features: int, in_features: int) -> int:
        """FLOPs of `reconstruct`; its backward pass takes twice as many."""
        shapes = list(self.shapes(out_features, in_features).values())
        cores = [torch.empty(shape, device="meta") for shape in shapes]
        return 2 * min(_rebuilding(cores), _rebuilding(cores[::-1]))

    def apply(self, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
        cores = list(factors.values())
        tokens = x.numel() // x.shape[-1]
        dense = min(_rebuilding(cores), _rebuilding(cores[::-1]))
        dense += tokens * prod([c.shape[1] * c.shape[2] for c in cores])
        if self.crop or tokens * _through(cores) >= dense:
            return x @ self.reconstruct(factors).mT
        ins = [c.shape[2] for c in cores]
        y = x.reshape(tokens, 1, 1, -1)  # (B, O so far, d, I left)
        for k, core in enumerate(cores):
            y = y.unflatten(3, (ins[k], -1))
            y = torch.einsum("noajr,aijb->noibr", y, core).flatten(1, 2)
        return y.reshape(*x.shape[:-1], -1)


def _chain(tensor: Tensor, shapes: list[tuple[int, ...]], balanced: bool) -> list[Tensor]:
    """TT-SVD (Oseledets 2011, algorithm 1) of a tensor (i_1, j_1, .., i_K, j_K): cores of `shapes`.

    All but the last core are orthonormal; if `balanced`, neighbours share their singular values.
    """
    cores, rest = [], tensor
    for left, i, j, right in shapes[:-1]:
        if _unit((left, i, j, right)):
            cores.append(torch.eye(left).to(tensor).reshape(left, 1, 1, right))
            continue
        u, sigma, v = torch.linalg.svd(rest.reshape(left * i * j, -1), full_matrices=False)
        sigma = sigma[:right].clamp_min(0)
        part = sigma.sqrt() if balanced else torch.ones_like(sigma)
        cores.append((u[:, :right] * part).reshape(left, i, j, right))
        rest = (sigma.sqrt() if balanced else sigma)[:, None] * v[:right]
    return [*cores, rest.reshape(shapes[-1])]


def _balance(cores: list[Tensor]) -> None:
    """Let neighbours share their singular values, in place, last to first; the product stays."""
    carry = cores[0].new_ones(1, 1)
    for k in range(len(cores) - 1, 0, -1):
        core = torch.tensordot(cores[k], carry, 1)
        if _unit(core.shape) and k < len(cores) - 1:
            carry = core[:, 0, 0]
            continue
        u, sigma, v = torch.linalg.svd(core.flatten(1), full_matrices=False)
        half = sigma.sqrt()
        cores[k], carry = (half[:, None] * v).reshape(core.shape), u * half
    cores[0] = torch.tensordot(cores[0], carry, 1)


def _unit(shape: tuple[int, ...]) -> bool:
    """Whether a core of this shape can be an identity."""
    return shape[1] * shape[2] == 1 and shape[0] == shape[3]


def _joined(a: Tensor, b: Tensor) -> Tensor:
    """The neighbouring cores (d, i, j, e) and (e, k, l, f) as one core (d, i k, j l, f)."""
    w = torch.tensordot(a, b, 1).permute(0, 1, 3, 2, 4, 5)  # (d, i, k, j, l, f)
    return w.flatten(3, 4).flatten(1, 2)


def _rebuilding(cores: list[Tensor]) -> int:
    """Multiply-adds of joining the cores one after the other, first to last."""
    total, done = 0, cores[0].shape[1] * cores[0].shape[2]
    for core in cores[1:]:
        total += done * core.numel()
        done *= core.shape[1] * core.shape[2]
    return total


def _through(cores: list[Tensor]) -> int:
    """Multiply-adds of one token through the cores, first to last."""
    total, done, left = 0, 1, prod([c.shape[2] for c in cores])  # a list, for torch.compile
    for core in cores:
        left //= core.shape[2]
        total += done * core.numel() * left
        done *= core.shape[1]
    return total
