"""A budget -> how many singular values, and so parameters, each site may keep."""

from dataclasses import dataclass

from torch import Tensor

LOSS = "squared output error of each site relative to its output's energy, on the calibration text"


@dataclass(frozen=True)
class Spectrum:
    """What a site loses at each rank: squared singular values, largest first, in the metric."""

    values: Tensor  # (min(O, I),) float64, relative to the energy of the output
    out_features: int
    in_features: int

    @property
    def dense(self) -> int:
        return self.out_features * self.in_features

    @property
    def unit(self) -> int:
        """Parameters of one more singular value."""
        return self.out_features + self.in_features

    @property
    def cut(self) -> int:
        """The rank from which two factors are no smaller than W."""
        return -(-self.dense // self.unit)


def uniform(spectra: dict[str, Spectrum], keep: float) -> dict[str, int]:
    """{site: parameters}: the same share of each."""
    return {site: int(keep * s.dense) for site, s in spectra.items()}


def by_energy(spectra: dict[str, Spectrum], energy: float) -> dict[str, int]:
    """{site: parameters}: the fewest singular values that hold `energy` of the squared sum."""
    budgets = {}
    for site, s in spectra.items():
        held = s.values.cumsum(0) / s.values.sum().clamp_min(1e-300)
        rank = int((held < energy * (1 - 1e-12)).sum()) + 1
        budgets[site] = s.dense if rank >= s.cut else rank * s.unit
    return budgets


def greedy(spectra: dict[str, Spectrum], keep: float) -> dict[str, int]:
    """{site: parameters} of a total of `keep`: chunks of singular values in the order of loss
    saved per parameter. The last chunk of a site makes it dense, its error zero.
    """
    left = keep * sum(s.dense for s in spectra.values())
    steps = []
    for site, s in spectra.items():
        chunk = 8 if s.cut >= 96 else 1  # multiples of 8 run faster and cost nothing measurable
        edges = [0, *range(chunk, s.cut - chunk + 1, chunk)]
        for place, (a, b) in enumerate(zip(edges, [*edges[1:], None], strict=True)):
            cost = (b - a) * s.unit if b is not None else s.dense - a * s.unit
            worth = float(s.values[a:b].sum()) / cost
            steps.append((worth if place else float("inf"), -place, site, cost))  # all get some
    budgets = dict.fromkeys(spectra, 0)
    stopped: set[str] = set()
    for _, _, site, cost in sorted(steps, reverse=True):
        if site in stopped or cost > left:
            stopped.add(site)  # its later chunks are worth less than this one
            continue
        budgets[site] += cost
        left -= cost
    return budgets
