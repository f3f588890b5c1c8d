"""Repair: what a changed model lost at each linear layer, as the nearest product of low rank.

For a weight W of the original and W' of the changed model it is the singular value decomposition
of (W - W') C^(1/2), where C is the covariance of the inputs on calibration text: EoRA (Liu et al.
2024, arXiv 2410.21271). Nothing is trained.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from tlmtool.compression.calibration import DAMPING, Moments, cholesky_, damp_
from tlmtool.compression.lockstep import Fit, Lockstep
from tlmtool.compression.statistics import Progress, Statistics
from tlmtool.data.batching import Batch
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.adapter import Adapter
from tlmtool.models.factorized import Factorized, bias_of, dense_weight, shape
from tlmtool.models.roles import TABLES, WRITES_RESIDUAL
from tlmtool.models.surgery import sites

RIDGE = 0.1  # pulls a target towards W: a larger value trusts the calibration text less
NARROW = "narrow"


def differing(model: Any, original: Any) -> dict[str, str]:
    """{site: role} of the linear layers whose weights differ between two models.

    Those of narrower MLPs are left out: their neurons stand in another order. Raises Usage for two
    models that have not the same layers.
    """
    found, theirs = sites(model), sites(original)
    wanted = dict[str, str]()
    for site, role in found.items():
        module = model.base_model.get_submodule(site)
        if site not in theirs:
            raise Usage(f"{site} is a layer of the model, and the original has none of that name")
        other = original.base_model.get_submodule(site)
        if shape(module) != shape(other):
            raise Usage(
                f"{site} is {shape(module)} in the model and {shape(other)} in the original: an "
                "adapter adds to weights of the same size"
            )
        cut = isinstance(module, Factorized) and module.decomposition.name == NARROW
        if isinstance(module, TABLES) or cut:
            continue
        weight = dense_weight(module)
        if not torch.equal(weight, dense_weight(other).to(weight)):
            wanted[site] = role
    return wanted


@torch.no_grad()
def repaired(
    model: Any,
    original: Any,
    roles: dict[str, str],
    batches: list[Batch],
    rank: int,
    dtype: torch.dtype,
    sequential: bool = True,
    progress: Progress | None = None,
) -> Adapter:
    """The adapter of these sites of a model, its matrices in a dtype.

    With `sequential` the sites are done in the order in which the model runs them: each with the
    inputs that it gets once those before it are repaired, and with the output of the original as
    its target. Without batches all errors of a weight count the same.
    """
    statistics = Statistics(model, roles, batches, progress=progress)
    adapter, handles = Adapter(rank), list[Any]()
    walk = _in_lockstep if sequential and batches else _once
    try:
        for site, lost, metric in walk(statistics, original):
            factors = SVD(min(rank, *lost.shape)).decompose(lost, metric)
            adapter.add(site, factors["right"].to(dtype), factors["left"].to(dtype))
            if sequential:
                handles.append(adapter.attach(model, site))
            release_memory()
    finally:
        for handle in handles:
            handle.remove()
    return adapter


Found = Iterator[
    tuple[str, Tensor, Tensor | None]
]  # (site, what it lost (O, I), its metric (I, I))


def _once(statistics: Statistics, original: Any) -> Found:
    """Each site with the inputs that it gets in the model as it is."""
    for group, moments in statistics.moments("repairing"):
        for site in group:
            metric = moments and moments.metric(False)  # an adapter has no bias to carry a mean
            yield site, _lost(statistics.model, original, site, moments), metric


def _in_lockstep(statistics: Statistics, original: Any) -> Found:
    """Each site with the inputs that it gets in the model as repaired so far."""
    model, roles, count = statistics.model, statistics.roles, 0
    pair = Lockstep(original, model, statistics.batches)
    pair.same = False
    for (stack, index), found in groupby(statistics.places, key=lambda place: place[:2]):
        places = [(p.group, _writes(roles, p.group), p.once) for p in found]
        pair.reach(stack, index)
        if stack and all(once for _, _, once in places):
            pair.look_ahead([(group, residual) for group, residual, _ in places])
        for group, residual, once in places:
            statistics.progress("repairing", count, len(statistics.places))
            fit, count = pair.measure(group, residual, once), count + 1
            for site in group:
                yield site, _lost(model, original, site, fit), fit.metric(False)
    yield from ((site, _lost(model, original, site, None), None) for site in statistics.blind)


def _writes(roles: dict[str, str], group: list[str]) -> bool:
    """Whether a group is one site whose output is added to the residual stream."""
    return len(group) == 1 and roles[group[0]] in WRITES_RESIDUAL


def _lost(model: Any, original: Any, site: str, moments: Moments | None) -> Tensor:
    """The matrix (O, I), in float64, that the weight of a site lacks.

    It is W - W', with the part of b - b' that the mean of the inputs can carry. Of a `Fit` it also
    has what makes up for inputs that are not those of the original.
    """
    modules = [each.base_model.get_submodule(site) for each in (original, model)]
    weight, now = (dense_weight(each).double() for each in modules)
    biases = [bias_of(each) for each in modules]
    if moments is None:
        return weight - now
    shift = None
    if biases[0] is not None and biases[1] is not None:
        shift = biases[0].double() - biases[1].double()
    lost = weight - now
    if isinstance(moments, Fit):
        lost = lost + _made_up(moments, weight, lost, shift)
    if shift is not None and shift.any():
        root = cholesky_(damp_(moments.covariance(False), DAMPING))
        carried = torch.cholesky_solve(moments.mean.double()[:, None], root)  # C^-1 E[x]
        lost = lost.addmm(shift[:, None], carried.mT)
    return lost


def _made_up(fit: Fit, weight: Tensor, lost: Tensor, shift: Tensor | None) -> Tensor:
    """The change of W (O, I) that makes up for inputs that are not those of the original."""
    if "gap" in fit.more:  # of the whole output, so without what the weight and bias explain
        rest = fit.more["gap"].double() - lost @ fit.second.double()
        if shift is not None:
            rest.addr_(shift, fit.mean.double(), alpha=-1)
        fit = Fit(fit.count, fit.mean, fit.second, gap=rest)
    return fit.target(weight, None, RIDGE)[0] - weight
