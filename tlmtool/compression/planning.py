"""A rank or a budget to a plan: which decomposition each site gets."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch

from tlmtool.compression import allocation
from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.candidates import TABLE, Candidates
from tlmtool.compression.drafting import Draft, cut
from tlmtool.compression.rivals import Rivals
from tlmtool.compression.statistics import Statistics
from tlmtool.compression.weighing import Weighed, compares, every_weighed, spectrum_of
from tlmtool.compression.widths import Widths, better, rounded, share_of, widths, widths_of
from tlmtool.decompositions import NAMES, Decomposition, candidates, named
from tlmtool.failure import Usage
from tlmtool.recipe.rules import NARROW

BY_RANK = "btd"  # the method of --rank, if none is given; by a budget it is auto


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
    if method == NARROW:
        if keep is None:
            raise Usage(f"method {NARROW} takes a rank or keep: a width has no singular values")
        share_of(sites, keep)
        return
    names, least, dense = methods(method, weighed, sites.bits), 0, 0
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


def methods(method: str | None, weighed: bool, bits: int | None = None) -> tuple[str, ...]:
    """The names of the decompositions that a method tries. In few bits only factors that are
    matrices can be stored, so that auto takes no others."""
    if method not in (None, "auto"):
        return (str(method),)
    return tuple(name for name in candidates(weighed) if not bits or named(name).chain)


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
        if not sites.takes(site, wanted["method"]):
            draft.left_dense[site] = sites.no_mlp(site)
            continue
        draft.take(sites, site, sites.make(site, **wanted))
    check_whole(sites, draft)
    return draft


def check_whole(sites: Candidates, draft: Draft) -> None:
    """Raises Usage for an MLP of which only a part, or parts of different widths, would be cut."""
    for down, mlp in sites.mlps.items() if NARROW in {d.name for d in draft.plan.values()} else ():
        found = {site: draft.plan.get(site) for site in mlp.sites}
        named = [taken for taken in found.values() if taken and taken.name == NARROW]
        if named and found != mlp.cut(sites.model, named[0].rank or mlp.width):
            raise Usage(
                f"--method {NARROW} cuts all layers of an MLP to one width: give "
                f"{' and '.join(mlp.firsts)} the method and rank of {down}"
            )


def by_budget(
    sites: Candidates,
    statistics: Statistics,
    keep: float | None,
    energy: float | None,
    method: str,
    allocate: str,
) -> Draft:
    """The spectra of all sites, then the parameters of each, then its decomposition."""
    if method == NARROW and keep is not None:
        return by_width(sites, statistics, keep, allocate)
    compared = method == "auto" and keep is not None and statistics.sensitive
    found = statistics.shared.once("spectra", lambda: _spectra(sites, statistics, compared))
    spectra, apart = (dict(each) for each in found[:2])
    curves, narrower = found[2], list[str]()
    if energy is not None:
        spectra |= apart
        budgets = allocation.by_energy(spectra, energy)
    else:
        narrower = better(spectra, curves, sites.mlps, keep, allocate)
        for down in narrower:
            for site in sites.mlps[down].sites:
                del spectra[site]
            spectra[down] = curves[down]
        budgets = getattr(allocation, allocate)(spectra, keep) if spectra else {}
        budgets |= allocation.uniform(apart, keep)
        spectra |= apart
    draft, rivals, spare = Draft(), Rivals(), 0
    for down in narrower:
        width = budgets[down] // curves[down].unit
        width = rounded(curves[down], width) if sites.bits else width
        draft.cut(sites, down, width)
        spare += budgets[down] - width * curves[down].unit
    cut = {site for down in narrower for site in sites.mlps[down].sites}
    shapes = {site: torch.empty(sites.shape(site), device="meta") for site in spectra}
    left: Iterable[Weighed] = (Weighed(site, w) for site, w in shapes.items())  # sizes are enough
    if len(methods(method, bool(statistics.batches), sites.bits)) > 1:
        left = every_weighed(sites, statistics, "choosing decompositions")
    for each in left:
        if (site := each.site) in cut:
            continue
        taken = best(sites, each, method, budgets[site] + spare, spectra[site], rivals)
        draft.take(sites, site, taken)
        if keep is not None:  # what ranks leave of a site's budget goes to the next site
            taken = draft.plan.get(site)
            spare += budgets[site] - (sites.size(site, taken) if taken else each.weight.numel())
        del each
    draft.plan = {s: draft.plan[s] for s in sites.roles if s in draft.plan}
    return draft


def _spectra(sites: Candidates, statistics: Statistics, compared: bool) -> list[dict[str, Any]]:
    """{site: its spectrum} of the sites whose losses are of one kind, and of the others; and {down:
    what its MLP loses at each width} of the MLPs that may be `compared`."""
    spectra, apart, curves = dict[str, Spectrum](), dict[str, Spectrum](), dict[str, Widths]()
    for each in every_weighed(sites, statistics, "planning"):
        if compared and each.site in sites.mlps and compares(each, statistics):
            curves[each.site] = widths_of(sites, sites.mlps[each.site], each)
        found = spectrum_of(each, sites.bits)
        (spectra if compares(each, statistics) else apart)[each.site] = found
        del each  # before the next one is made: its metric may be the largest tensor there is
    return [spectra, apart, curves]


def by_width(sites: Candidates, statistics: Statistics, keep: float, allocate: str) -> Draft:
    """The width of each MLP; sites that are in none stay dense, and their part counts."""
    share = share_of(sites, keep)
    curves = statistics.shared.once("widths", lambda: _curves(sites, statistics))
    return cut(sites, widths(curves, share, allocate))


def _curves(sites: Candidates, statistics: Statistics) -> dict[str, Widths]:
    """{down: what its MLP loses at each width}."""
    found = dict[str, Widths]()
    for each in every_weighed(sites, statistics, "planning"):
        if each.site in sites.mlps:
            found[each.site] = widths_of(sites, sites.mlps[each.site], each)
        del each
    return found


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
    names = methods(method, each.metric is not None, sites.bits)
    names = (TABLE,) if sites.roles[site] == "embedding" else names
    found = [d for name in names if (d := sites.largest(site, name, budget))]
    if not found:
        raise Usage(f"{site}: {budget:,} parameters are too few for {' or '.join(names)} at rank 1")
    if len(found) == 1:
        return found[0]
    known = known or spectrum_of(each)
    return (rivals or Rivals()).best(found, each, sites.roles[site], known)
