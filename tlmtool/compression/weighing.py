"""A site with what weighs its errors: what it loses at each rank, and with given factors."""

from typing import NamedTuple

from torch import Tensor

from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.calibration import Moments
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


def spectrum_of(each: Weighed) -> Spectrum:
    """What a site loses at each rank.

    It is relative to the energy of its output, so that sites compare. With an output metric it is
    the predicted squared change of the last hidden state instead.
    """
    weight = each.weight
    if each.output_metric is not None:
        unit = 1.0
    elif each.moments is not None:
        unit = float(each.moments.energy(weight))
    else:
        unit = float((times(weight, each.metric) * weight).sum())
    unit = max(unit, 1e-300)
    values = spectrum(weight, each.metric, each.output_metric) / unit
    return Spectrum(values.cpu(), *weight.shape, unit)
