"""A budget -> how many singular values, and so parameters, each site may keep."""

from dataclasses import dataclass

from torch import Tensor


def loss(measured: bool, sensitive: bool) -> str:
    """What `greedy` spends parameters to lower, in words."""
    if not measured:
        return "squared error of each weight relative to its own norm (no calibration text)"
    if not sensitive:
        return "squared output error of each site on the calibration text, relative to the output"
    return (
        "predicted squared change of the last hidden state (Gauss-Newton) on the calibration text"
    )


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
    saved per parameter, one for each site first. The last step makes a site dense, its error zero.
    """
    left = keep * sum(s.dense for s in spectra.values())
    budgets = dict.fromkeys(spectra, 0)
    steps = []
    for site, s in spectra.items():
        for place, (saved, cost) in enumerate(_steps(s)):
            first = place == 0
            steps.append((float("inf") if first else saved / cost, -place, site, cost))
    stopped: set[str] = set()
    for _, _, site, cost in sorted(steps, reverse=True):
        if site in stopped or cost > left:
            stopped.add(site)  # its later chunks are worth less than this one
            continue
        budgets[site] += cost
        left -= cost
    return budgets


def _steps(s: Spectrum) -> list[tuple[float, int]]:
    """(loss saved, parameters) of each chunk, merged so that worth per parameter never rises."""
    chunk = 8 if s.cut >= 96 else 1  # multiples of 8 run faster and cost nothing measurable
    edges = [*range(0, s.cut - chunk + 1, chunk)]
    steps: list[tuple[float, int]] = []
    for a, b in zip(edges, [*edges[1:], None], strict=True):
        cost = (b - a) * s.unit if b is not None else s.dense - a * s.unit
        steps.append((float(s.values[a:b].sum()), cost))
        while len(steps) > 1 and steps[-1][0] * steps[-2][1] > steps[-2][0] * steps[-1][1]:
            (saved, cost), (more, further) = steps[-2:]
            steps[-2:] = [(saved + more, cost + further)]
    return steps
