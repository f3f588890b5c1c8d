"""The errors of a factorized site, beside those of a plain and of a weighted SVD of its size."""

from typing import Any

import torch
from torch import Tensor

from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.base import root, times, weigh


def record(
    site: str,
    role: str,
    taken: Decomposition,
    target: Tensor,
    reached: Tensor,
    metric: Tensor | None,
) -> dict[str, Any]:
    """The figures of one site: the relative errors of what was `reached` against the `target`.

    Beside them stand the errors of an SVD of the target with as many parameters, plain and
    weighted.
    """
    o, i = target.shape if role != "embedding" else reversed(target.shape)
    size = taken.parameters(o, i)
    rank = max(1, min(size // (o + i), o, i))
    return {
        "site": site,
        "role": role,
        "shape": [o, i],
        "decomposition": taken.to_dict(),
        "parameters": size,
        "keep": size / (o * i),
        **errors(target, reached, rank, metric),
    }


def errors(
    target: Tensor, reached: Tensor, rank: int, metric: Tensor | None = None
) -> dict[str, float]:
    """Relative errors of what was `reached` against the `target` (O, I), both in float64.

    Beside them stand those of an SVD of rank `rank`: plain, and with a `metric` C weighted. With T
    of the plain SVD and its tail U of left singular vectors, |(T - SVD) s|^2 = tr(U^T T C T^T U).
    So one Gram matrix of the shorter side gives both of its errors, and no SVD is rebuilt.
    """
    wide = target.shape[0] <= target.shape[1]
    gram = target @ target.mT if wide else target.mT @ target
    values, vectors = torch.linalg.eigh(gram)
    tail = vectors[:, : len(values) - rank]
    off, energy = reached - target, gram.trace()
    found = {
        "weight_error": _share(off.square().sum(), energy),
        "svd_weight_error": _share(values[: len(values) - rank].clamp_min(0).sum(), energy),
    }
    if metric is None:
        return found
    if wide:
        weighed = times(target, metric) @ target.mT
        lost, energy = (weighed @ tail).mul_(tail).sum(), weighed.trace()
        best = torch.linalg.eigvalsh(weighed)
    else:
        by_vector = times(tail.mT, metric).mul_(tail.mT).sum(1)
        lost = (by_vector * values[: len(values) - rank]).sum()
        s = root(metric, target.device)
        best = torch.linalg.eigvalsh(weigh(weigh(gram, s).mT, s))
        energy = best.sum()
    return found | {
        "output_error": _share(times(off, metric).mul_(off).sum(), energy),
        "svd_output_error": _share(lost, energy),
        "best_output_error": _share(best[: len(values) - rank].clamp_min(0).sum(), energy),
    }


def _share(lost: Tensor, energy: Tensor) -> float:
    return float((lost.clamp_min(0) / energy.clamp_min(1e-300)).sqrt())
