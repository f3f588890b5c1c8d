"""When a strategy selects matrices to over-parameterize, which ones, and how they are expanded."""

from collections import Counter
from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list
from torch import nn

from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.models.factorized import shape
from tlmtool.recipe.schema import Strategy
from tlmtool.training.expansion import Expansion
from tlmtool.training.growth import CLOSE, expansion
from tlmtool.training.importance import Scores, chosen
from tlmtool.training.objectives import Objective
from tlmtool.training.order import batches_of, split

SAMPLE = 256  # examples of the loss that zero-out measures: more cost more, and vary less


class Selector:
    """Selects the matrices of a model to expand, by their importance.

    `roles`: {site: role} of what may be expanded. `world`: the number of processes, all of which
    call each method at the same step.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        strategy: Strategy,
        scores: Scores,
        roles: dict[str, str],
        seed: int,
        world: int,
    ):
        self.model, self.objective, self.strategy = model, objective, strategy
        self.scores, self.roles, self.seed, self.world = scores, roles, seed, world
        self.room = sum(min(strategy.N, n) for n in Counter(roles.values()).values())

    def due(self, step: int, total: int, selections: list[dict[str, Any]]) -> bool:
        """Whether a dynamic strategy selects after so many steps: at every `every`-th but the last
        one, while a group has room."""
        taken = sum(len(each["chosen"]) for each in selections)
        return taken < self.room and step % self.strategy.every == 0 and step < total

    def select(self, n: int, step: int, taken: set[str]) -> dict[str, Any]:
        """{"step", "chosen", "scores", "roles"}: the `n` most important matrices of each group that
        are not `taken`. The first process decides; the scores start again at 0."""
        if self.scores.kind == "zero-out":
            self.scores.zero_out(self._sampled_loss)
        scores = {s: v for s, v in self.scores.values.items() if s in self.roles}
        found = [chosen(scores, self.roles, taken, n, self.strategy.N)]
        broadcast_object_list(found)
        self.scores.clear()
        return {"step": step, "chosen": found[0], "scores": scores, "roles": self.roles}

    def expand(self, site: str) -> Expansion:
        """The cores of a site's weight, the same on every process."""
        module = self.model.base_model.get_submodule(site)
        made = Expansion(site, module, decomposition_of(self.strategy, *shape(module)))
        if self.world > 1:
            for core in made.cores.values():
                core.data.copy_(broadcast(core.data))
            made.rebuild()
        return made

    @torch.no_grad()
    def _sampled_loss(self) -> float:
        """The mean loss on a fixed batch of training examples, in evaluation mode."""
        places = batches_of(self.objective.lengths, SAMPLE, 1, self.seed, -1)[0]
        parts = [self.objective.part(each, 0) for each in split(places, 8) if each]
        self.model.eval()
        losses = [float(self.objective.loss(self.model, self.model, each)) for each in parts]
        self.model.train(self.objective.dropout)
        return sum(losses) / max(1, sum(map(self.objective.count, parts)))


def decomposition_of(wanted: Strategy, out_features: int, in_features: int) -> Decomposition:
    """The exact decomposition that a weight (O, I) is expanded to. Raises Usage where its shape
    does not come within 8 % of the growth."""
    if wanted.method == "svd":
        return SVD()
    found = expansion(out_features, in_features, wanted.growth, wanted.cores)
    made = found.parameters(out_features, in_features) / (out_features * in_features)
    if abs(made - wanted.growth) > CLOSE * wanted.growth:
        cores = f" with {wanted.cores} cores" if wanted.cores else ""
        raise Usage(
            f"--growth {wanted.growth:g}{cores} does not fit a matrix of {out_features} x "
            f"{in_features}: the nearest is {made:.2f}, not within 8 %"
        )
    return found
