"""Prepares what is to be trained, by the task or the teacher of a recipe."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tlmtool.measuring.inputs import oddities
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.tasks.table import TASKS
from tlmtool.training.distilled_job import distilled_job
from tlmtool.training.job import Job, freeze
from tlmtool.training.task_jobs import labelled_job, language_job, translation_job

KINDS: dict[str, Callable[..., Job]] = {
    "classification": labelled_job,
    "regression": labelled_job,
    "language": language_job,
    "translation": translation_job,
}


def prepare(
    recipe: Recipe, load: Callable[..., nn.Module], tokenizer: Any, source: Folder | None = None
) -> Job:
    """The job of a recipe. `load(name, **more)` gives a model; `source` is the folder of its
    config.json, by default that of the recipe's MODEL."""
    source = source or Folder.of(recipe.model, recipe.revision)
    if recipe.distillation.teacher:
        job = distilled_job(recipe, load, tokenizer, source)
    else:
        job = KINDS[TASKS[recipe.training.task].kind](recipe, load, tokenizer, source)
    job.warnings += oddities(job.model, tokenizer)
    freeze(recipe, job)
    if recipe.training.checkpointing:
        job.model.gradient_checkpointing_enable()
    return job
