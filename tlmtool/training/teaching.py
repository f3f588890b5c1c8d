"""Training a model on a teacher, in place: all of it, or some modules."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tlmtool.failure import Usage
from tlmtool.recipe.schema import Recipe
from tlmtool.training import finetune
from tlmtool.training.job import Job, freeze
from tlmtool.training.objectives import Objective
from tlmtool.training.outcome import Outcome


def modules_named(model: nn.Module, patterns: Iterable[str]) -> list[nn.Module]:
    """The modules that patterns of names choose, as sites are named. Raises Usage for a pattern
    that chooses none."""
    there, found = [*model.base_model.named_modules()], list[nn.Module]()
    for pattern in patterns:
        chosen = [module for name, module in there if fnmatchcase(name, pattern)]
        if not chosen:
            raise Usage(f"recovery.layers names {pattern}, which is no module of this model")
        found += chosen
    return found


def distilled(
    recipe: Recipe, model: nn.Module, objective: Objective, source: str, **shown: Any
) -> Outcome:
    """Train a model in place by the recipe of `training_of`. The numbers of its weights are of the
    same type afterwards. `shown`: `tick` and `tell` of `Trainer`."""
    held = {p: p.requires_grad for p in model.parameters()}
    job = Job(model, objective, objective.measure, source, tuned=True)
    freeze(recipe, job)
    if patterns := recipe.recovery.layers:
        chosen = {id(p) for m in modules_named(model, patterns) for p in m.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(id(parameter) in chosen)
        if not any(p.requires_grad for p in trained):
            what = recipe.training.train
            raise Usage(f"recovery.layers names no module with weights to train ({what})")
    dtype = model.dtype
    model.float()  # AdamW needs it
    outcome = finetune.train(recipe, job, finetune.accelerator_of(recipe), **shown)
    model.to(dtype).eval()
    for parameter, kept in held.items():
        parameter.requires_grad_(kept)
    return outcome
