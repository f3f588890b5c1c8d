"""Which inner neurons of an MLP matter most, and what it loses at each width."""

from typing import NamedTuple

import torch
from torch import Tensor

from tlmtool.decompositions.base import root, weigh

PART = 32  # a step leaves out one in so many of the neurons that are left: more parts take longer


class Ranking(NamedTuple):
    """The neurons of an MLP, the best first (I,), and what is lost with each of them (I,).

    The sum of the losses from R on is that of an MLP that keeps the first R."""

    order: Tensor
    losses: Tensor


def ranked(
    weight: Tensor, metric: Tensor, output_metric: Tensor | None = None, least: int = 0
) -> Ranking:
    """The neurons that W (O, I) reads, ranked in the metric C (I, I) of what it reads.

    Neurons are left out in turn, those first that the others can replace best: least squares make
    up for them. With P = C^-1 a set J loses tr(W_J P_JJ^-1 W_J^T), W_J already moved by those that
    went before (Hassibi & Stork 1993). With an output metric G it is tr(G W_J P_JJ^-1 W_J^T). The
    last `least` neurons are not ranked.
    """
    s = root(output_metric, weight.device)
    w = weight if s is None else weigh(weight.mT, s).mT
    p = torch.linalg.inv(metric.to(w))
    left = torch.arange(w.shape[1], device=w.device)
    gone, lost = list[Tensor](), list[Tensor]()
    while len(left) > max(least, 1):
        scores = w.square().sum(0) / p.diagonal()
        count = min(max(1, len(left) // PART), len(left) - max(least, 1))
        ranks = scores.argsort(descending=True)
        rest, out = ranks[:-count].sort().values, ranks[-count:]
        inner = torch.linalg.inv(p[out][:, out])
        moved = w[:, out] @ inner  # W_J P_JJ^-1
        loss = (moved * w[:, out]).sum().clamp_min(0)
        shares = scores[out] / scores[out].sum().clamp_min(1e-300)
        gone.append(left[out])
        lost.append(loss * shares)
        across = p[out][:, rest]
        w = w[:, rest] - moved @ across
        p = p[rest][:, rest] - across.mT @ inner @ across
        left = left[rest]
    scores = w.square().sum(0) / p.diagonal()
    ranks = scores.argsort(descending=True)
    order = torch.cat([left[ranks], *reversed(gone)])
    return Ranking(order, torch.cat([scores[ranks], *reversed(lost)]))
