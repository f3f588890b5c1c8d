"""A site with what weighs its errors: what it loses at each rank, and with given factors."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.calibration import Moments
from tlmtool.compression.candidates import Candidates
from tlmtool.compression.statistics import Statistics
from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.base import times
from tlmtool.decompositions.svd import spectrum


class Weighed(NamedTuple):
    """A site with what weighs its errors: W (O, I), C (I, I) or (I,), G (O, O), input moments."""

    site: str
    weight: Tensor
    metric: Tensor | None = None
    output_metric: Tensor | None = None
    moments: Moments | None = None

    def loss(self, tried: Decomposition) -> float:
        """tr(G dW C dW^T) of the rough factors of a decomposition."""
        g = self.output_metric if tried.takes_output_metric else None
        factors = tried.rough().decompose(self.weight, self.metric, g)
        off = self.weight - tried.reconstruct(factors)
        seen = times(times(off, self.metric).mT, self.output_metric).mT
        return float((seen * off).sum())


def spectrum_of(each: Weighed, bits: int | None = None) -> Spectrum:
    """What a site loses at each rank. `bits`: in which its factors will be stored.

    It is relative to the energy of its output, so that sites compare. With an output metric it is
    the predicted squared change of the last hidden state instead.
    """
    unit = energy_of(each)
    values = spectrum(each.weight, each.metric, each.output_metric) / unit
    return Spectrum(values.cpu(), *each.weight.shape, unit, bits)


def energy_of(each: Weighed) -> float:
    """The energy of the output of a site, which its losses are relative to; 1 where an output
    metric makes the losses of all sites comparable."""
    weight = each.weight
    if each.output_metric is not None:
        return 1.0
    if each.moments is not None:
        return max(float(each.moments.energy(weight)), 1e-300)
    return max(float((times(weight, each.metric) * weight).sum()), 1e-300)


def compares(each: Weighed, statistics: Statistics) -> bool:
    """Whether the loss of a site is of the same kind as that of most others."""
    seen = each.output_metric is not None or not statistics.sensitive
    return not statistics.batches or (each.metric is not None and seen)


def every_weighed(sites: Candidates, statistics: Statistics, what: str) -> Iterator[Weighed]:
    """Every site: embeddings first, then linears in the order in which the model runs them."""
    for site in statistics.tables:
        metric = statistics.embedding_metric(site)
        yield Weighed(site, sites.weight(site), metric, statistics.output_metric(site))
    for group, moments in statistics.planning(what):
        for site in group:
            yield Weighed(  # nothing of it is kept here while the next one is made
                site,
                sites.weight(site),
                statistics.metric(site, moments),
                statistics.output_metric(site),
                moments,
            )
