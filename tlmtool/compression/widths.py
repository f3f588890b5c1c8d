"""A budget to the width of each MLP: what it loses at each width, and how many neurons it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from tlmtool.compression import allocation
from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.candidates import Candidates
from tlmtool.compression.eliminating import ranked
from tlmtool.compression.narrowing import sizes_of
from tlmtool.compression.weighing import Weighed, energy_of
from tlmtool.failure import Usage
from tlmtool.models.neurons import Mlp
from tlmtool.models.rounding import width_step
from tlmtool.recipe.rules import NARROW


@dataclass(frozen=True)
class Widths(Spectrum):
    """What an MLP loses at each width: the loss that each neuron saves, the best first.

    `out_features`: the parameters of a neuron in all linears; `in_features`: how many neurons.
    """

    @property
    def unit(self) -> int:
        """The parameters of one neuron."""
        return self.out_features

    @property
    def chunk(self) -> int:
        """Neurons in a step: multiples of 8 run faster, and those of a group are stored in few
        bits, also where all weights of a checkpoint have groups of one size."""
        return max(super().chunk, width_step(self.cut, self.bits))

    @property
    def cut(self) -> int:
        """The width at which the MLP is no smaller."""
        return self.in_features


def unit_of(sites: Candidates, mlp: Mlp) -> int:
    """The parameters of one neuron."""
    return sum(prod(sites.shape(site)) for site in mlp.sites) // mlp.width


def widths_of(sites: Candidates, mlp: Mlp, each: Weighed) -> Widths:
    """What an MLP loses at each width, in the units of `spectrum_of`. `each`: its down.

    Without a metric a neuron's loss is the squared product of the norms of its weights.
    """
    size = unit_of(sites, mlp)
    if each.metric is None:
        losses = sizes_of(sites.model, mlp).square().sort(descending=True).values
        unit = max(float(losses.sum()), 1e-300)
    else:
        losses = ranked(each.weight, each.metric, each.output_metric).losses
        unit = energy_of(each)
    return Widths((losses / unit).cpu(), size, mlp.width, unit, sites.bits)


def share_of(sites: Candidates, keep: float) -> float:
    """The share of the MLPs that meets `keep` over all sites named while the others stay dense.

    Raises Usage where there is no such share.
    """
    mlps = sites.mlps.values()
    if not mlps:
        site = next(iter(sites.roles))
        raise Usage(f"--method {NARROW} makes MLPs narrower: {site}: {sites.no_mlp(site)}")
    whole = sum(prod(sites.shape(site)) for site in sites.roles)
    open_ = sum(prod(sites.shape(site)) for site in sites.mlp_of)
    least = sum(unit_of(sites, mlp) for mlp in mlps)
    left = keep * whole - (whole - open_)
    if left < least:
        raise Usage(
            f"--keep {keep:g} leaves {int(keep * whole):,} parameters, and the sites that --method "
            f"{NARROW} leaves dense hold {whole - open_:,}: keep more, or name ffn alone"
        )
    return left / open_


def widths(curves: Mapping[str, Widths], share: float, allocate: str) -> dict[str, int]:
    """{down: how many neurons are kept}, so many that a share of all parameters is.

    One width in all is a multiple of the step, where MLPs are wide.
    """
    budgets = getattr(allocation, allocate)(dict(curves), share)
    found = {down: budgets[down] // curve.unit for down, curve in curves.items()}
    if allocate == "uniform":
        return {down: rounded(curves[down], width) for down, width in found.items()}
    return found


def rounded(curve: Widths, width: int) -> int:
    """A width as a multiple of the neurons of a step, at least 1."""
    return max(width - width % curve.chunk, min(width, curve.chunk), 1)


def even(sites: Candidates, share: float) -> dict[str, int]:
    """{down: the width of each MLP if all keep the same share}; no loss has to be known."""
    found = {
        down: Widths(torch.empty(0), unit_of(sites, mlp), mlp.width, bits=sites.bits)
        for down, mlp in sites.mlps.items()
    }
    return widths(found, share, "uniform")


def better(
    spectra: Mapping[str, Spectrum],
    curves: Mapping[str, Widths],
    mlps: Mapping[str, Mlp],
    keep: float,
    allocate: str,
) -> list[str]:
    """The downs of the MLPs that lose less if they are made narrower than if each of their linears
    becomes factors, with as many parameters.

    Both losses are predicted squared changes of the last hidden state; those of the linears of an
    MLP are added. Each MLP has the parameters that it would get if all became factors.
    """
    if not curves:
        return []
    budgets = getattr(allocation, allocate)(dict(spectra), keep)
    found = []
    for down, curve in curves.items():
        sites = mlps[down].sites
        width = sum(budgets[site] for site in sites) // curve.unit
        lost = sum(_lost(spectra[site], budgets[site]) for site in sites)
        if curve.lost(width) < lost:
            found.append(down)
    return found


def _lost(s: Spectrum, budget: int) -> float:
    return 0.0 if budget >= s.dense else s.lost(budget // s.unit)
