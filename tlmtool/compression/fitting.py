"""Fitting: each site of a draft is swapped for factors of its target; with the error of each."""

import copy
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from tlmtool.compression.candidates import weight_of
from tlmtool.compression.drafting import Draft
from tlmtool.compression.errors import record
from tlmtool.compression.journal import Journal
from tlmtool.compression.lockstep import Fit, Lockstep
from tlmtool.compression.narrowing import narrow, narrowed
from tlmtool.compression.restoring import put_back, tensors_of
from tlmtool.compression.statistics import Statistics
from tlmtool.decompositions import Decomposition
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.factorized import set_weight
from tlmtool.models.neurons import Mlp
from tlmtool.models.roles import WRITES_RESIDUAL
from tlmtool.models.streaming import settle
from tlmtool.models.surgery import factorize, plan_of

RIDGE = 0.1  # pulls a fitted target towards W: a larger value trusts the calibration text less


def fit(
    statistics: Statistics, draft: Draft, sequential: bool, journal: Journal | None = None
) -> list[dict[str, Any]]:
    """Swap the sites of a draft for factors, in the order in which the model runs them.

    Returns a record of each. `sequential`: each site is fitted to the inputs that the compressed
    sites before it give. Groups that are finished in the journal are put back from it, and those
    that are finished here are written to it.
    """
    records: list[dict[str, Any]] = []
    if journal:
        records = put_back(statistics.model, draft.plan, journal)
        settle(statistics.model)
    done = journal.done if journal else set()

    def finish(sites: list[str], found: list[dict[str, Any] | None]) -> None:
        made, tensors = [each for each in found if each], tensors_of(statistics.model, sites)
        if journal:
            journal.write(sites, tensors, made)
        settle(statistics.model, journal.file_of(-1) if journal else None)
        records.extend(made)

    for site in statistics.tables:
        if site in draft.plan and site not in done:
            finish([site], [_embed(statistics, site, draft.plan[site])])
    mlps = narrowed(statistics.dense, draft.plan)
    downs = {first: down for down, mlp in mlps.items() for first in mlp.firsts}
    found = _in_lockstep(statistics, done, mlps) if sequential else _once(statistics, done)
    sites, several = list[str](), list[dict[str, Any] | None]()
    metrics = dict[str, Tensor | None]()  # of the firsts of an MLP whose down is not done yet
    for group, moments in found:
        sites += group
        metrics |= {site: statistics.metric(site, moments) for site in group if site in downs}
        while group:
            site = group.pop(0)
            if site in mlps:
                several += narrow(statistics, mlps[site], draft.plan, moments, RIDGE, metrics)
                continue
            wanted = None if site in downs else draft.plan.get(site)
            several.append(_swap(statistics, site, wanted, moments, not group))
        del moments  # so that they are gone when the next are measured
        release_memory()
        if {downs[site] for site in sites if site in downs} <= {*sites}:  # no MLP is half done
            finish(sites, several)
            sites, several = [], []
    order = {site: k for k, site in enumerate(statistics.roles)}
    return sorted(records, key=lambda r: order[r["site"]])


def _once(statistics: Statistics, done: set[str]) -> Iterator[tuple[list[str], Fit | None]]:
    """(group of sites, moments of its inputs in the dense model) of those left, in order."""
    left = copy.copy(statistics)
    left.places = [place for place in statistics.places if not done.issuperset(place.group)]
    left.blind = [site for site in statistics.blind if site not in done]
    for group, moments in left.moments("factorizing"):
        yield list(group), moments and Fit(moments.count, moments.mean, moments.second)


def _in_lockstep(
    statistics: Statistics, done: set[str], mlps: dict[str, Mlp]
) -> Iterator[tuple[list[str], Fit | None]]:
    """(group of sites, moments of its inputs in the model as compressed so far) of those left, in
    order. Blocks that are done are only run, for what they give to the next. `mlps`: {down: an MLP
    that is narrower once its down is done}."""
    model, dense = statistics.model, statistics.dense
    pair = Lockstep(dense, model, statistics.batches)
    left = [place for place in statistics.places if not done.issuperset(place.group)]
    pair.same = left == statistics.places and plan_of(model) == plan_of(dense)
    count = len(statistics.places) - len(left)
    for (stack, index), found in groupby(left, key=lambda place: place[:2]):
        places = [*found]
        pair.reach(stack, index)
        if stack and all(place.once for place in places):
            pair.look_ahead([(p.group, _writes(statistics, p.group)) for p in places])
        for place in places:
            statistics.progress("factorizing", count, len(statistics.places))
            group, residual = list(place.group), _writes(statistics, place.group)
            moments: Fit | None = pair.measure(group, residual, place.once)
            release_memory()  # which the activations took
            yield group, moments
            pair.forget(
                [first for site in place.group if site in mlps for first in mlps[site].firsts]
            )
            pair.same, moments, count = False, None, count + 1
    yield from (([site], None) for site in statistics.blind if site not in done)


def _writes(statistics: Statistics, group: list[str]) -> bool:
    """Whether a group is one site whose output is added to the residual stream."""
    return statistics.roles[group[0]] in WRITES_RESIDUAL and len(group) == 1


def _swap(
    statistics: Statistics,
    site: str,
    wanted: Decomposition | None,
    fit: Fit | None,
    last: bool,
) -> dict[str, Any] | None:
    """Fit the target of a site to its inputs and factorize it; its record.

    A site without a decomposition stays dense, with the target as its weight, and has no record.
    After the `last` site of a fit only the mean of the fit is kept.
    """
    model = statistics.model
    module = model.base_model.get_submodule(site)
    weight, bias = weight_of(model, site), statistics.bias(site)
    trainable = module.weight.requires_grad
    target, mean = fit.target(weight, bias, RIDGE) if fit is not None else (weight, None)
    metric = statistics.metric(site, fit)
    if target is not weight:
        set_weight(module, target)
    if last and fit is not None:
        fit.release()
    release_memory()
    if wanted is not None:
        g = statistics.output_metric(site) if wanted.takes_output_metric else None
        factorize(model, {site: wanted}, {site: metric}, {site: g})
    del weight
    reached, now = weight_of(model, site), model.base_model.get_submodule(site)
    if mean is not None:
        corrected = nn.Parameter((mean - reached @ fit.mean).to(module.bias.dtype))
        now.set_bias(corrected) if wanted is not None else setattr(now, "bias", corrected)
    now.requires_grad_(trainable)
    if wanted is None:
        return None
    return record(site, statistics.roles[site], wanted, target, reached, metric)


def _embed(statistics: Statistics, site: str, wanted: Decomposition) -> dict[str, Any]:
    """Factorize an embedding; its record."""
    model, metric = statistics.model, statistics.embedding_metric(site)
    weight = weight_of(model, site)
    trainable = model.base_model.get_submodule(site).weight.requires_grad
    factorize(model, {site: wanted}, {site: metric}, {site: statistics.output_metric(site)})
    model.base_model.get_submodule(site).requires_grad_(trainable)
    return record(site, statistics.roles[site], wanted, weight, weight_of(model, site), metric)
