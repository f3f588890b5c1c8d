"""A budget -> how many singular values, and so parameters, each site may keep."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from torch import Tensor

from tlmtool.models.rounding import step_of


def loss(measured: bool, sensitive: bool) -> str:
    """What `greedy` lowers with the parameters that it spends, in words."""
    if not measured:
        return "squared error of each weight relative to its own norm (no calibration text)"
    if not sensitive:
        return "squared output error of each site on the calibration text, relative to the output"
    return (
        "predicted squared change of the last hidden state (Gauss-Newton) on the calibration text"
    )


@dataclass(frozen=True)
class Spectrum:
    """What a site loses at each rank: its squared singular values in the metric, largest first."""

    values: Tensor  # (min(O, I),) float64, relative to the energy of the output
    out_features: int
    in_features: int
    energy: float = 1.0  # what the values were divided by
    bits: int | None = None  # in which the factors will be stored; None for floats

    def lost(self, rank: int) -> float:
        """The squared error of the best factors of a rank, as it is: times the energy."""
        return float(self.values[rank:].sum()) * self.energy

    @property
    def dense(self) -> int:
        return self.out_features * self.in_features

    @property
    def unit(self) -> int:
        """How many parameters one more singular value takes."""
        return self.out_features + self.in_features

    @property
    def chunk(self) -> int:
        """Singular values in a step of `greedy`: multiples of 8 run faster and cost nothing."""
        fast = 8 if self.cut >= 96 else 1
        return max(fast, step_of(self.cut, self.bits))

    def step(self, at: int, most: int) -> int:
        """The rank after `at`, up to `most`; `at` itself where there is none. Factors in few bits
        have whole chunks, because a group of numbers does not divide other ranks."""
        following = (at // self.chunk + 1) * self.chunk
        if following <= most:
            return following
        return min(at, most) if self.bits else most

    @property
    def cut(self) -> int:
        """The lowest rank at which two factors are no smaller than W."""
        return -(-self.dense // self.unit)


def uniform(spectra: dict[str, Spectrum], keep: float) -> dict[str, int]:
    """{site: parameters}: the same share of each site."""
    return {site: int(keep * s.dense) for site, s in spectra.items()}


def by_energy(spectra: dict[str, Spectrum], energy: float) -> dict[str, int]:
    """{site: parameters} of the fewest singular values that hold `energy` of their squared sum."""
    budgets = {}
    for site, s in spectra.items():
        held = s.values.cumsum(0) / s.values.sum().clamp_min(1e-300)
        rank = int((held < energy * (1 - 1e-12)).sum()) + 1
        rank = -(-rank // s.chunk) * s.chunk if s.bits else rank
        budgets[site] = s.dense if rank >= s.cut else rank * s.unit
    return budgets


def greedy(spectra: dict[str, Spectrum], keep: float) -> dict[str, int]:
    """{site: parameters}, with a total of `keep`, spent where the loss falls fastest.

    A site that no rank makes smaller is left dense. Every other one gets one chunk of singular
    values. Then each step takes what saves most loss per
    parameter: one more chunk, or a site left dense, whose error is zero. The last chunks are cut to
    what is left, so that less than one singular value remains; those in few bits are left whole.
    """
    left = keep * sum(s.dense for s in spectra.values())
    whole = {site: s.dense for site, s in spectra.items() if s.cut == 1}
    units = sum(s.unit for site, s in spectra.items() if site not in whole)
    even = int((left - sum(whole.values())) // max(units, 1))  # values that every site can have
    ranks = {site: min(s.chunk, even, s.cut - 1) for site, s in spectra.items()}
    budgets = {site: whole.get(site, ranks[site] * s.unit) for site, s in spectra.items()}
    saved = {site: [0.0, *s.values.cumsum(0).tolist()] for site, s in spectra.items()}
    left -= sum(budgets.values())

    def rated(site: str) -> tuple[float, str, int, int] | None:
        """(- loss saved per parameter, site, rank, size) of the best step that fits, if any."""
        s, at = spectra[site], ranks[site]
        more = s.step(at, min(s.cut - 1, at + int(left // s.unit)))
        steps = []
        for to, held, size in ((more, more, more * s.unit), (s.cut, -1, s.dense)):
            if 0 < size - budgets[site] <= left:
                worth = (saved[site][held] - saved[site][at]) / (size - budgets[site])
                steps.append((-worth, site, to, size))
        return min(steps, default=None)

    queue = list(filter(None, map(rated, spectra)))
    heapify(queue)
    while queue:
        step = heappop(queue)
        _, site, rank, size = step
        if rated(site) == step:  # otherwise less is left than when it was rated
            left -= size - budgets[site]
            ranks[site], budgets[site] = rank, size
        if following := rated(site):
            heappush(queue, following)
    return budgets
