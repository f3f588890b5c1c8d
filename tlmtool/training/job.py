"""A job: a model with the head that its task needs, and what it is to be trained for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tlmtool.failure import NotLoadable, Usage
from tlmtool.models.attending import mixing
from tlmtool.models.surgery import factorized
from tlmtool.recipe.schema import Recipe
from tlmtool.training.objectives import Objective

SET_ASIDE = 10  # every tenth training example is set aside where choices are made on some


@dataclass
class Job:
    """A model and what it is to be trained for.

    `dev`: scores a model on the development split, as the report shows it. `source`: where the
    examples came from. `notes`: further entries of the part `training` of the report. `tuned`:
    whether the checkpoint has the task's head already. `roles`: {site: role} of what may be
    expanded. `held`: of a causal language model, the joined development text.
    """

    model: nn.Module
    objective: Objective
    dev: Callable[[nn.Module], dict[str, Any]]
    source: str
    notes: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False
    roles: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    held: str = ""

    @property
    def final(self) -> tuple[str, str]:
        """(name, which is better) of the score that `dev` gives."""
        return self.objective.final or (self.objective.name, self.objective.better)


def freeze(recipe: Recipe, job: Job) -> None:
    """With `--train factors`, freeze all but the factors, converted attention and a new head."""
    if recipe.training.train == "factors":
        held = {id(f) for _, m in factorized(job.model) for f in m.factors.values()}
        held |= {id(p) for module in mixing(job.model) for p in module.parameters()}
        if not held:
            raise Usage(f"{recipe.model} holds no factors to train: give --train all")
        if not job.tuned:  # the head is new
            own = {id(p) for p in job.model.base_model.parameters()}
            held |= {id(p) for p in job.model.parameters()} - own
        for parameter in job.model.parameters():
            parameter.requires_grad_(id(parameter) in held)


def set_aside(recipe: Recipe, train: list, dev: list) -> tuple[list, list, str]:
    """(examples to train on, examples to watch, which these are). Choices are never made on the
    development split: where there are any, a tenth of train is watched instead."""
    if not (recipe.training.keep_best or recipe.training.patience):
        return train, dev, "the development split"
    if len(train) < SET_ASIDE:
        raise NotLoadable(
            f"{recipe.training.data} has {len(train)} training examples: choosing the best model "
            f"needs {SET_ASIDE}, one of which is set aside"
        )
    if recipe.training.verbatim:  # lines that follow one another stay together
        many = len(train) - len(train) // SET_ASIDE
        return train[:many], train[many:], "the last tenth of train, set aside for choosing"
    rest = [each for i, each in enumerate(train) if i % SET_ASIDE != SET_ASIDE - 1]
    return rest, train[SET_ASIDE - 1 :: SET_ASIDE], "a tenth of train, set aside for choosing"
