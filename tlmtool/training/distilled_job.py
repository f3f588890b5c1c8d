"""The job of a distillation: what is learned from a teacher, and whether the teacher fits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from tlmtool.data.language import HELD
from tlmtool.data.lessons import Lesson, joined_lesson, lesson
from tlmtool.failure import Usage
from tlmtool.measuring.inputs import takes
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.predictions import classes_of, nameless
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.training.distilling import Distilled, measure_of
from tlmtool.training.job import Job, set_aside
from tlmtool.training.objectives import Objective
from tlmtool.training.task_jobs import labelled_job


def distilled_job(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    """Distillation on the examples of a labelled task, or on sentences where there is no task."""
    given, wanted = recipe.training, recipe.distillation
    teacher = load(wanted.teacher)
    length = min(given.max_length, position_limit(teacher) or given.max_length)
    recipe = replace(recipe, training=replace(given, max_length=length))
    if given.task:
        job = labelled_job(recipe, load, tokenizer, source)
        _check_teacher(recipe, teacher, job.model, tokenizer)
        _check_outputs(recipe, teacher, job.model)
        if takes(teacher, "labels"):
            job.warnings += nameless(job.objective.task, classes_of(teacher), wanted.teacher)
        plain, temperature = job.objective, wanted.temperature
        job.objective = Distilled(job.model, teacher, plain, None, temperature, labelled=True)
    else:
        job = _of_sentences(recipe, load(recipe.model), teacher, tokenizer)
    heads = job.objective.heads(job.model)
    job.notes["taught"] = "hidden states and outputs" if heads else "hidden states"
    return job


def _of_sentences(recipe: Recipe, model: nn.Module, teacher: nn.Module, tokenizer: Any) -> Job:
    """Distillation on sentences, without labels."""
    given = recipe.training
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    causal, length = objective_of(model) == "clm", given.max_length
    found = lesson(given.data, columns=columns, tail=causal)
    _check_teacher(recipe, teacher, model, tokenizer)
    train, aside, where = set_aside(recipe, found.sentences, [])
    final = watching = measure_of(found, teacher, tokenizer, length)
    plain = Objective(model, tokenizer, train, None, length)
    notes = {"examples": len(train), "dev": len(found.scored or found.held)}
    if aside:  # choices are made on sentences alone
        watched = Lesson(train, aside[:: max(1, len(aside) // HELD)][:HELD], None, [], where)
        watching = measure_of(watched, teacher, tokenizer, length)
        notes |= {"watched": f"{where}: feature error, lower is better"}
    name, better, score = watching
    temperature = recipe.distillation.temperature
    objective = Distilled(model, teacher, plain, score, temperature, labelled=False)
    objective.name, objective.better, objective.final = name, better, final[:2]
    job = Job(model, objective, lambda m: {"score": final[2](m)}, found.source, notes, True)
    if causal:
        text = joined_lesson(found, given.data)
        job.held = text.held or "\n".join(found.held)
        job.notes |= {"held_out": text.where} if text.held else {}
    return job


def _check_outputs(recipe: Recipe, teacher: nn.Module, model: nn.Module) -> None:
    """Raises Usage for a teacher whose head is for another task. One without a head is fine: its
    hidden states alone are learned."""
    if not takes(teacher, "labels"):
        return
    kinds = (type(each).__name__.removeprefix("Tlm") for each in (teacher, model))
    if len({*kinds}) > 1 or teacher.config.num_labels != model.config.num_labels:
        raise Usage(
            f"the head of the teacher {recipe.distillation.teacher} is not for task "
            f"{recipe.training.task}: fine-tune it on the task, or give a teacher without a head"
        )


def _check_teacher(recipe: Recipe, teacher: nn.Module, model: nn.Module, tokenizer: Any) -> None:
    """Raises Usage where the hidden states of the two cannot be compared."""
    name = recipe.distillation.teacher
    widths = [each.config.get_text_config().hidden_size for each in (teacher, model)]
    if len({*widths}) > 1:
        raise Usage(f"the teacher {name} has width {widths[0]}, {recipe.model} {widths[1]}")
    own = checkpoint.load_tokenizer(name)
    if own is not None and own.get_vocab() != tokenizer.get_vocab():
        raise Usage(f"the teacher {name} reads other tokens than {recipe.model}")
