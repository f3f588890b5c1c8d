"""Cutting an MLP to its best inner neurons, with its last linear fitted to make up for the rest."""

from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.candidates import weight_of
from tlmtool.compression.eliminating import ranked
from tlmtool.compression.errors import record
from tlmtool.compression.lockstep import Fit
from tlmtool.compression.statistics import Statistics
from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.narrow import Narrow
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.factorized import dense_weight, set_weight
from tlmtool.models.neurons import Mlp, mlps_of
from tlmtool.models.surgery import factorize


def narrowed(model: Any, plan: dict[str, Decomposition]) -> dict[str, Mlp]:
    """{down: its MLP} of the MLPs of a dense model that a plan makes narrower."""
    if not any(isinstance(taken, Narrow) for taken in plan.values()):
        return {}
    return {d: mlp for d, mlp in mlps_of(model).items() if isinstance(plan.get(d), Narrow)}


def narrow(
    statistics: Statistics,
    mlp: Mlp,
    plan: dict[str, Decomposition],
    fit: Fit | None,
    ridge: float,
    metrics: dict[str, Tensor | None],
) -> list[dict[str, Any]]:
    """Cut an MLP as the plan says, in place; a record of each of its linears.

    Its firsts are fitted already, and still hold all neurons. The target of `down` is that of any
    site: what gives the dense model's output from the inputs that it gets. The neurons are sorted
    by what the target loses without them, and `down` is fitted to the target with those that stay.
    `metrics`: {first: what weighs its error}.
    """
    model = statistics.model
    module = model.base_model.get_submodule(mlp.down)
    trainable = module.weight.requires_grad
    weight, bias = weight_of(model, mlp.down), statistics.bias(mlp.down)
    target, mean = fit.target(weight, bias, ridge) if fit is not None else (weight, None)
    metric = statistics.metric(mlp.down, fit)
    read = None if fit is None else fit.mean  # E[x] of the neurons
    if fit is not None:
        fit.release()
    kept = plan[mlp.down].rank or mlp.width
    if metric is None:
        order = sizes_of(model, mlp).argsort(descending=True)
    else:
        order = ranked(target, metric, statistics.output_metric(mlp.down), kept).order
        metric = metric[order][:, order]
    mlp.sort(model, order)
    target = target[:, order]
    set_weight(module, target)
    release_memory()
    records = []
    for site in mlp.sites:
        own = metric if site == mlp.down else metrics.pop(site)
        before = target if site == mlp.down else weight_of(model, site)
        factorize(model, {site: plan[site]}, {} if metric is None else {site: metric})
        model.base_model.get_submodule(site).requires_grad_(trainable)
        reached = weight_of(model, site)
        role = statistics.roles[site]
        records.append(record(site, role, plan[site], before, reached, own))
    if mean is not None and read is not None and bias is not None:
        now = model.base_model.get_submodule(mlp.down)
        corrected = (mean - reached @ read[order]).to(module.bias.dtype)
        now.set_bias(nn.Parameter(corrected, trainable))
    return records


def sizes_of(model: Any, mlp: Mlp) -> Tensor:
    """A size of each neuron without any text (I,): the product of the norms of what is its own."""
    base = model.base_model
    found = dense_weight(base.get_submodule(mlp.down)).double().norm(dim=0)
    for site in mlp.firsts:
        rows = dense_weight(base.get_submodule(site)).double().norm(dim=1)
        found = found * torch.stack(rows.split(mlp.width)).prod(0)
    return found
