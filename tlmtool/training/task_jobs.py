"""The job of each kind of task: its examples, its head and its objective."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tlmtool.data import labelled
from tlmtool.data.labels import classes_in, numbered
from tlmtool.data.language import joined_split, language_splits
from tlmtool.data.parallel import parallel_splits
from tlmtool.measuring.inputs import padding_of, skips_padding
from tlmtool.measuring.predictions import nameless
from tlmtool.measuring.scoring import bleu_of
from tlmtool.measuring.translating import generation
from tlmtool.models import checkpoint
from tlmtool.models.config import config_in
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.tasks.table import TASKS, Task
from tlmtool.training.heads import dropouts, head_of
from tlmtool.training.job import Job, set_aside
from tlmtool.training.objectives import Labelled, Language, Objective
from tlmtool.training.translation import Translation


def _config(recipe: Recipe, folder: Folder) -> dict[str, Any]:
    """config.json, with the class that the weights are loaded with where there are weights."""
    return checkpoint.described(folder) if recipe.model else folder.config


def _head(recipe: Recipe, load: Callable, task: Task, folder: Folder) -> tuple[nn.Module, bool]:
    """The model with the task's head, and whether the checkpoint had it."""
    name = recipe.model or f"a new {folder.name}"
    head, changes, has = head_of(_config(recipe, folder), name, task)
    if (share := recipe.training.dropout) is not None:
        changes |= dropouts(config_in(folder.path).to_dict(), share)
    torch.manual_seed(recipe.seed)  # a new head is drawn
    return load(recipe.model, head=head, changes=changes, has=has), has


def labelled_job(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    """Classification or regression. A classification has the classes that the checkpoint's head
    names, if it names all labels, and otherwise those of the data."""
    given = recipe.training
    names = classes_in(_config(recipe, source))
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    prefer = () if numbered(names) else names
    found = labelled.splits(given.task, given.data, **columns, prefer=prefer)
    model, has = _head(recipe, load, found.task, source)
    train, watched, where = set_aside(recipe, found.train, found.dev)
    objective = Labelled(model, tokenizer, found.task, train, watched, given.max_length)
    job = _job(model, objective, found.dev, where, found.source, has)
    job.dev = partial(objective.final_score, examples=found.dev)
    told = nameless(found.task, names, recipe.model) if has else []
    job.warnings = told + _set_padding(model, objective, has)
    return job


def language_job(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    """A language-model loss, of lines of text or of full blocks."""
    given = recipe.training
    causal = given.task == "clm"
    train, dev, place = language_splits(given.data, tail=causal, verbatim=given.verbatim)
    model, has = _head(recipe, load, TASKS[given.task], source)
    train, watched, where = set_aside(recipe, train, dev)
    settings = (given.max_length, recipe.seed, given.pack, given.eos)
    objective = Language(model, tokenizer, train, watched, *settings)
    job = _job(model, objective, dev, where, place, has)
    job.notes |= {"unit": f"blocks of {objective.max_length} tokens"} if given.pack else {}
    if causal:
        found = joined_split(given.data)
        job.held, part = found.held or "\n".join(dev), found.where
        job.notes |= {"held_out": part} if part else {}
    return job


def translation_job(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    """Translation, of an encoder-decoder."""
    given = recipe.training
    bleu = bleu_of(given.languages)  # raises before any work
    found = parallel_splits(given.data, given.languages, given.text, given.label)
    model, has = _head(recipe, load, TASKS[given.task], source)
    train, watched, where = set_aside(recipe, found.train, found.dev)
    objective = Translation(
        model,
        tokenizer,
        train,
        watched,
        given.max_length,
        bleu,
        given.beams,
        given.label_smoothing,
    )
    model.generation_config = generation(model, tokenizer, given.beams, objective.max_length)
    return _job(model, objective, found.dev, where, found.source, has)


def _job(
    model: nn.Module,
    objective: Any,
    dev: list,
    where: str,
    source: str,
    has: bool,
) -> Job:
    """The job of an objective. `where`: on what it is watched; `has`: whether the head is old."""
    notes = {"examples": len(objective.lengths), "dev": objective.many(dev), "watched": where}
    notes |= {"max_length": objective.max_length}
    return Job(model, objective, partial(objective.scored, examples=dev), source, notes, has)


def _set_padding(model: nn.Module, objective: Objective, has: bool) -> list[str]:
    """Make a classifier that reads the last token of a text skip the padding of its tokenizer, or
    its end token. One that was trained to skip another token stays as it is. Returns a warning that
    names the token, or none."""
    if not skips_padding(model) or (has and padding_of(model) is not None):
        return []
    own = objective.tokenizer
    last = {ids[-1] for ids in objective.encoded["input_ids"] if ids} if has else set()
    ends = (own.pad_token_id, own.eos_token_id)  # an old head has read a token that ends texts
    fits = (t for t in ends if t is not None and t < objective.rows and t not in last)
    chosen, before = next(fits, None), model.config.pad_token_id
    if chosen is None or chosen == before:
        return []
    model.config.pad_token_id = chosen
    return [
        f"config.json names token {chosen} as padding now, which the head skips (before: {before})"
    ]
