"""What a strategy does between the steps of a run: when it selects, what it expands."""

from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list

from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.models.factorized import shape
from tlmtool.recipe.schema import Strategy
from tlmtool.report.figures import brief
from tlmtool.training.expansion import Expansion
from tlmtool.training.growth import CLOSE, expansion
from tlmtool.training.importance import chosen
from tlmtool.training.order import batches_of, split

LOOKS = 8  # batches whose gradients score a checkpoint that nothing was trained of yet
SAMPLE = 256  # examples of the loss that zero-out measures


def due(run: Any) -> bool:
    """Whether this step selects (dynamic): every t-th while a group may have more, not the last."""
    every, taken = run.strategy.every, sum(len(s["chosen"]) for s in run.outcome.selections)
    room = taken < sum(
        min(run.strategy.N, list(run.roles.values()).count(role)) for role in {*run.roles.values()}
    )
    return room and (run.step + 1) % every == 0 and run.step + 1 < run.total


def second_half(run: Any) -> None:
    """Static: the top N of each group, chosen on what the first half made (or the checkpoint
    brings, whose gradients on a few batches count), and a training from the start."""
    if not run.halfway and run.scores.kind != "zero-out":
        settings = (run.training.batch, run.least, run.seed, -1)
        for places in batches_of(run.objective.lengths, *settings)[:LOOKS]:
            run.backward(0, places)
            run.scores.add()
            run.optimizer.adam.zero_grad()
    run.start_again()
    run.waiting += select(run, run.strategy.N)


def select(run: Any, n: int) -> list[Expansion]:
    """Expand the `n` most important matrices of each group; decided by the first process."""
    if run.scores.kind == "zero-out":
        run.scores.zero_out(lambda: _sampled_loss(run))
    taken = {each.site for each in [*run.optimizer.expansions, *run.waiting]}
    scores = {s: v for s, v in run.scores.values.items() if s in run.roles}
    found = [chosen(scores, run.roles, taken, n, run.strategy.N)]
    broadcast_object_list(found)
    run.scores.clear()
    if found[0]:
        entry = {"step": run.step + 1, "chosen": found[0], "scores": scores, "roles": run.roles}
        run.outcome.selections.append(entry)
        run.tell(f"step {run.step + 1}: over-parameterizing {brief(found[0], run.roles)}")
    return [_expand(run, site) for site in found[0]]


def form_of(wanted: Strategy, out_features: int, in_features: int) -> Decomposition:
    """The exact form that a weight (O, I) is expanded to; raises Usage where its shape does not
    come within 8 % of the growth."""
    if wanted.method == "svd":
        return SVD()
    form = expansion(out_features, in_features, wanted.growth, wanted.cores)
    made = form.parameters(out_features, in_features) / (out_features * in_features)
    if abs(made - wanted.growth) > CLOSE * wanted.growth:
        cores = f" of {wanted.cores} cores" if wanted.cores else ""
        raise Usage(
            f"--growth {wanted.growth:g}{cores} cannot be had of a matrix of {out_features} x "
            f"{in_features}: the nearest is {made:.2f}, not within 8 %"
        )
    return form


def _expand(run: Any, site: str) -> Expansion:
    """The cores of a site's weight, the same on every process."""
    module = run.model.base_model.get_submodule(site)
    made = Expansion(site, module, form_of(run.strategy, *shape(module)))
    if run.world > 1:
        for core in made.cores.values():
            core.data.copy_(broadcast(core.data))
        made.rebuild()
    return made


@torch.no_grad()
def _sampled_loss(run: Any) -> float:
    """The mean loss on a fixed batch of training examples, in evaluation mode."""
    places = batches_of(run.objective.lengths, SAMPLE, 1, run.seed, -1)[0]
    parts = [run.objective.part(each, 0) for each in split(places, 8) if each]
    run.model.eval()
    losses = [float(run.objective.loss(run.model, run.model, each)) for each in parts]
    run.model.train(run.objective.dropout)
    return sum(losses) / max(1, sum(map(run.objective.count, parts)))
