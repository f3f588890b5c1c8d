"""A rank or a budget to a plan: which decomposition each site gets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch

from tlmtool.compression import allocation
from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.candidates import TABLE, Candidates
from tlmtool.compression.rivals import Rivals
from tlmtool.compression.statistics import Statistics
from tlmtool.compression.weighing import Weighed, spectrum_of
from tlmtool.decompositions import NAMES, Decomposition, candidates, named
from tlmtool.failure import Usage
from tlmtool.models.roles import OTHER

BY_RANK = "btd"  # the method of --rank, if none is given; by a budget it is auto
FEW = 0.10  # a site that keeps less of its parameters is warned of: raise it for more warnings


@dataclass
class Draft:
    """A plan in the making: what each site becomes, what stays dense and why, and warnings."""

    plan: dict[str, Decomposition] = field(default_factory=dict)
    left_dense: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def take(self, sites: Candidates, site: str, found: Decomposition | None) -> None:
        """Note a site's decomposition, or that it stays dense since that would not be smaller."""
        o, i = sites.shape(site)
        try:
            size = sites.size(site, found) if found else o * i
        except Usage as error:  # a gate or a router may be tiny beside the others
            if sites.roles[site] != OTHER:
                raise
            self.left_dense[site] = str(error).removesuffix(f" ({site})")
            return
        if size >= o * i:
            self.left_dense[site] = (
                f"{found.name} at rank {found.rank} would hold {size:,} parameters, "
                f"W holds {o * i:,}"
                if found
                else f"no factors of a matrix ({o}, {i}) are smaller than it"
                if o * i <= o + i
                else "its share of the budget is the dense weight"
            )
            return
        assert found is not None
        self.plan[site] = found
        if size < FEW * o * i:
            self.warnings.append(f"{site} keeps {size / (o * i):.3f} of its parameters")


def check(
    sites: Candidates,
    rank: int | None,
    keep: float | None,
    method: str | None,
    overrides: Iterable[Any],
    weighed: bool,
) -> None:
    """Raises Usage for what no measuring could make possible.

    That is a decomposition that does not exist, or whose error texts cannot weigh. It is a rank
    that no site can have, or that makes none smaller, and a budget below the parameters of rank 1.
    """
    if rank is not None:
        check_draft(by_rank(sites, rank, method, overrides), weighed)
        return
    names, least, dense = methods(method, weighed), 0, 0
    for site in sites.roles:
        found = [sites.make(site, name, 1) for name in names]
        check_draft(Draft({site: found[0]}), weighed)
        least += min(sites.size(site, each) for each in found)
        dense += prod(sites.shape(site))
    if keep is not None and keep * dense < least:
        raise Usage(
            f"--keep {keep:g} leaves {int(keep * dense):,} parameters, and the sites named hold "
            f"{least:,} at rank 1: keep more, or name fewer sites"
        )


def methods(method: str | None, weighed: bool) -> tuple[str, ...]:
    """The names of the decompositions that a method tries."""
    return candidates(weighed) if method in (None, "auto") else (str(method),)


def check_draft(draft: Draft, weighed: bool) -> None:
    """Raises Usage if nothing gets smaller, or texts cannot weigh the error of a site."""
    for site, found in draft.plan.items() if weighed else ():
        if not found.takes_metric:
            able = ", ".join(name for name in NAMES if named(name).takes_metric)
            raise Usage(
                f"no calibration text can weigh the error of {found.name} ({site}): give "
                f"--calibration none, or take one of {able}"
            )
    if not draft.plan:
        reason = next(iter(draft.left_dense.values()), "no site was named")
        raise Usage(f"no site would get smaller at this budget: {reason}")


def by_rank(
    sites: Candidates, rank: int, method: str | None, overrides: Iterable[Any] = ()
) -> Draft:
    """Every site at one rank, except where an override names it; the last such one wins."""
    draft = Draft()
    overrides = list(overrides)
    for override in overrides:
        if not any(fnmatchcase(s, override.sites) for s in sites.roles):
            raise Usage(f"the override for {override.sites!r} matches none of the sites named")
    for site in sites.roles:
        wanted: dict[str, Any] = {"method": method or BY_RANK, "rank": rank, "blocks": None}
        for override in overrides:
            if fnmatchcase(site, override.sites):
                given = {key: getattr(override, key) for key in wanted}
                wanted |= {key: value for key, value in given.items() if value is not None}
        if wanted["method"] == "auto":
            raise Usage("--method auto needs a budget: give --keep or --energy instead of --rank")
        draft.take(sites, site, sites.make(site, **wanted))
    return draft


def by_budget(
    sites: Candidates,
    statistics: Statistics,
    keep: float | None,
    energy: float | None,
    method: str,
    allocate: str,
) -> Draft:
    """The spectra of all sites, then the parameters of each, then its decomposition."""
    found = statistics.shared.once("spectra", lambda: _spectra(sites, statistics))
    spectra, apart = (dict(each) for each in found)
    if energy is not None:
        spectra |= apart
        budgets = allocation.by_energy(spectra, energy)
    else:
        budgets = getattr(allocation, allocate)(spectra, keep) if spectra else {}
        budgets |= allocation.uniform(apart, keep)
        spectra |= apart
    draft, rivals, spare = Draft(), Rivals(), 0
    shapes = {site: torch.empty(sites.shape(site), device="meta") for site in spectra}
    left: Iterable[Weighed] = (Weighed(site, w) for site, w in shapes.items())  # sizes are enough
    if method == "auto":
        left = _weighed(sites, statistics, "choosing decompositions")
    for each in left:
        site = each.site
        taken = best(sites, each, method, budgets[site] + spare, spectra[site], rivals)
        draft.take(sites, site, taken)
        if keep is not None:  # what ranks leave of a site's budget goes to the next site
            taken = draft.plan.get(site)
            spare += budgets[site] - (sites.size(site, taken) if taken else each.weight.numel())
        del each
    draft.plan = {s: draft.plan[s] for s in sites.roles if s in draft.plan}
    return draft


def _spectra(sites: Candidates, statistics: Statistics) -> list[dict[str, Spectrum]]:
    """{site: its spectrum} of the sites whose losses are of one kind, and of the others."""
    spectra, apart = dict[str, Spectrum](), dict[str, Spectrum]()
    for each in _weighed(sites, statistics, "planning"):
        (spectra if _compares(each, statistics) else apart)[each.site] = spectrum_of(each)
        del each  # before the next one is made: its metric may be the largest tensor there is
    return [spectra, apart]


def _compares(each: Weighed, statistics: Statistics) -> bool:
    """Whether the loss of a site is of the same kind as that of most others."""
    seen = each.output_metric is not None or not statistics.sensitive
    return not statistics.batches or (each.metric is not None and seen)


def _weighed(sites: Candidates, statistics: Statistics, what: str) -> Iterator[Weighed]:
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


def best(
    sites: Candidates,
    each: Weighed,
    method: str,
    budget: int,
    known: Spectrum | None = None,
    rivals: Rivals | None = None,
) -> Decomposition | None:
    """The decomposition of a site within a budget of parameters; None if W fits into it, or if no
    factors are smaller than W, as for the gate of one output that a mixture of experts may have.

    For `auto` it is the one with the least weighed error |g^T dW s|, by `Rivals`. `known` is the
    spectrum of the site, if it was computed before. Raises Usage for a budget below rank 1.
    """
    site = each.site
    o, i = sites.shape(site)
    if budget >= o * i or o * i <= o + i:
        return None
    names = methods(method, each.metric is not None)
    names = (TABLE,) if sites.roles[site] == "embedding" else names
    found = [d for name in names if (d := sites.largest(site, name, budget))]
    if not found:
        raise Usage(f"{site}: {budget:,} parameters are too few for {' or '.join(names)} at rank 1")
    if len(found) == 1:
        return found[0]
    known = known or spectrum_of(each)
    return (rivals or Rivals()).best(found, each, sites.roles[site], known)
