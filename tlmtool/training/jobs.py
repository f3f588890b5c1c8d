"""What is to be trained: a model with the head that its task needs, examples, and an objective."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from tlmtool.data import labelled
from tlmtool.data.labels import classes_in, numbered
from tlmtool.data.language import HELD, language_splits
from tlmtool.data.parallel import languages_of, parallel_splits
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.inputs import oddities, padding_of, skips_padding, takes
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.predictions import classes_of, nameless
from tlmtool.measuring.translating import generation
from tlmtool.models import checkpoint
from tlmtool.models.attending import mixing
from tlmtool.models.folder import Folder
from tlmtool.models.surgery import factorized
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.schema import Training
from tlmtool.tasks.table import LANGUAGE, TRANSLATION
from tlmtool.training.distilling import Distilled, Lesson, lesson, measure_of
from tlmtool.training.heads import dropouts, head_of
from tlmtool.training.objectives import Labelled, Language, Objective
from tlmtool.training.translation import Translation

SET_ASIDE = 10  # every tenth training example, where choices are made on some


@dataclass
class Job:
    """A model and what it is to be trained for. `dev`: scores it as the report will."""

    model: nn.Module
    objective: Objective
    dev: Callable[[nn.Module], dict[str, float]]
    source: str
    notes: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False  # the checkpoint has the task's head already
    roles: dict[str, str] = field(default_factory=dict)  # {site: role} of what may be expanded
    warnings: list[str] = field(default_factory=list)

    @property
    def final(self) -> tuple[str, str]:
        """(name, which is better) of what `dev` gives."""
        return self.objective.final or (self.objective.name, self.objective.better)


def prepare(
    recipe: Recipe, load: Callable[..., nn.Module], tokenizer: Any, source: Folder | None = None
) -> Job:
    """The model with the head that the task needs, and the examples; `load(name, **more)`.

    `source`: the folder of its config.json, found by the recipe's MODEL where none is given."""
    source = source or Folder.of(recipe.model, recipe.revision)
    if recipe.distillation.teacher:
        job = _distilled(recipe, load, tokenizer, source)
    elif recipe.training.task in LANGUAGE:
        job = _language(recipe, load, tokenizer, source)
    elif recipe.training.task == TRANSLATION:
        job = _translation(recipe, load, tokenizer, source)
    else:
        job = _labelled(recipe, load, tokenizer, source)
    job.warnings += oddities(job.model, tokenizer)
    freeze(recipe, job)
    if recipe.training.checkpointing:
        job.model.gradient_checkpointing_enable()
    return job


def freeze(recipe: Recipe, job: Job) -> None:
    """Everything but the factors, converted attention and a new head, where only these move."""
    if recipe.training.train == "factors":
        held = {id(f) for _, m in factorized(job.model) for f in m.factors.values()}
        held |= {id(p) for module in mixing(job.model) for p in module.parameters()}
        if not held:
            raise Usage(f"{recipe.model} holds no factors to train: give --train all")
        if not job.tuned:  # a head that is new
            own = {id(p) for p in job.model.base_model.parameters()}
            held |= {id(p) for p in job.model.parameters()} - own
        for parameter in job.model.parameters():
            parameter.requires_grad_(id(parameter) in held)


def _config(recipe: Recipe, folder: Folder) -> dict[str, Any]:
    """config.json, with the class that the weights are loaded with where there are weights."""
    return checkpoint.described(folder) if recipe.model else folder.config


def _head(recipe: Recipe, load: Callable, task: Any, folder: Folder) -> tuple[nn.Module, bool]:
    """The model with the task's head, and whether the checkpoint had it."""
    named = recipe.model or f"a new {folder.name}"
    head, changes, has = head_of(_config(recipe, folder), named, task)
    if (share := recipe.training.dropout) is not None:
        changes |= dropouts(AutoConfig.from_pretrained(folder.path).to_dict(), share)
    torch.manual_seed(recipe.seed)  # a new head
    return load(recipe.model, head=head, changes=changes, has=has), has


def _aside(recipe: Recipe, train: list, dev: list) -> tuple[list, list, str]:
    """(examples to train on, examples to watch, note): choices are never made on the dev split."""
    if not (recipe.training.keep_best or recipe.training.patience):
        return train, dev, "the development split"
    if len(train) < SET_ASIDE:
        raise NotLoadable(
            f"{recipe.training.data} has {len(train)} training examples: choosing the best model "
            f"needs {SET_ASIDE}, one of which is set aside"
        )
    rest = [each for i, each in enumerate(train) if i % SET_ASIDE != SET_ASIDE - 1]
    return rest, train[SET_ASIDE - 1 :: SET_ASIDE], "a tenth of train, set aside for choosing"


def _labelled(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    given = recipe.training
    names = classes_in(_config(recipe, source))
    found = _splits(given, names)
    model, has = _head(recipe, load, found.task, source)
    train, watched, where = _aside(recipe, found.train, found.dev)
    objective = Labelled(model, tokenizer, found.task, train, watched, given.max_length)
    job = _job(model, objective, found.dev, where, found.source, has)
    told = nameless(found.task, names, recipe.model) if has else []
    job.warnings = told + _pad(model, objective, has)
    return job


def _splits(given: Training, names: tuple[str, ...]) -> labelled.Splits:
    """The examples of a task; their labels are the classes that the checkpoint's head names, if
    it names them all."""
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    if given.task == "classification" and names and not numbered(names):
        with suppress(NotLoadable):
            return labelled.splits(given.task, given.data, **columns, classes=names)
    return labelled.splits(given.task, given.data, **columns)


def _language(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    given = recipe.training
    train, dev, place = language_splits(given.data)
    model, has = _head(recipe, load, given.task, source)
    train, watched, where = _aside(recipe, train, dev)
    settings = (given.max_length, recipe.seed, given.pack)
    objective = Language(model, tokenizer, train, watched, *settings)
    job = _job(model, objective, dev, where, place, has)
    job.notes |= {"unit": f"blocks of {objective.max_length} tokens"} if given.pack else {}
    return job


def _translation(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    given = recipe.training
    bleu = Bleu((languages_of(given.languages) or (None, None))[1])  # refused before any work
    found = parallel_splits(given.data, given.languages, given.text, given.label)
    model, has = _head(recipe, load, given.task, source)
    train, watched, where = _aside(recipe, found.train, found.dev)
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
    notes = {"examples": len(objective.lengths), "dev": objective.many(dev), "watched": where}
    notes |= {"max_length": objective.max_length}
    return Job(model, objective, partial(objective.scored, examples=dev), source, notes, has)


def _distilled(recipe: Recipe, load: Callable, tokenizer: Any, source: Folder) -> Job:
    given, wanted = recipe.training, recipe.distillation
    teacher = load(wanted.teacher)
    length = min(given.max_length, position_limit(teacher) or given.max_length)
    recipe = replace(recipe, training=replace(given, max_length=length))
    if given.task:
        job = _labelled(recipe, load, tokenizer, source)
        _check_teacher(recipe, teacher, job.model, tokenizer)
        _check_outputs(recipe, teacher, job.model)
        if takes(teacher, "labels"):
            job.warnings += nameless(job.objective.task, classes_of(teacher), wanted.teacher)
        plain, score, labels = job.objective, None, True
    else:
        model, found = load(recipe.model), lesson(given.data, 0)
        _check_teacher(recipe, teacher, model, tokenizer)
        train, aside, where = _aside(recipe, found.sentences, [])
        name, better, score = measure_of(found, teacher, tokenizer, length)
        plain = Objective(model, tokenizer, train, None, length)
        notes = {"examples": len(train), "dev": len(found.pairs or found.held)}
        job = Job(model, plain, lambda m: {"score": score(m)}, found.source, notes, True)
        if aside:  # choices are made on sentences alone
            watched = Lesson(train, aside[:: max(1, len(aside) // HELD)][:HELD], [], where)
            _, better, score = measure_of(watched, teacher, tokenizer, length)
            notes |= {"watched": f"{where}: feature error, lower is better"}
        labels = False
    job.objective = Distilled(job.model, teacher, plain, score, wanted.temperature, labels)
    if not labels:
        job.objective.name, job.objective.better = name, better
    heads = job.objective.heads(job.model)
    job.notes["taught"] = "hidden states and outputs" if heads else "hidden states"
    return job


def _check_outputs(recipe: Recipe, teacher: nn.Module, model: nn.Module) -> None:
    """A teacher without a head teaches hidden states alone; raises Usage for one whose head is for
    something else."""
    if not takes(teacher, "labels"):
        return
    kinds = (type(each).__name__.removeprefix("Tlm") for each in (teacher, model))
    if len({*kinds}) > 1 or teacher.config.num_labels != model.config.num_labels:
        raise Usage(
            f"the head of the teacher {recipe.distillation.teacher} is not for task "
            f"{recipe.training.task}: fine-tune it on the task, or give a teacher without a head, "
            "whose hidden states alone are learned"
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


def _pad(model: nn.Module, objective: Objective, has: bool) -> list[str]:
    """A classifier that looks for the last token skips what the tokenizer pads with, or its end
    token; one that was trained before, and to skip another, stays so. What was chosen, in words."""
    if not skips_padding(model) or (has and padding_of(model) is not None):
        return []
    own = objective.tokenizer
    last = {ids[-1] for ids in objective.encoded["input_ids"] if ids} if has else set()
    ends = (own.pad_token_id, own.eos_token_id)  # where texts end with it, a head has read it
    fits = (t for t in ends if t is not None and t < objective.rows and t not in last)
    chosen, before = next(fits, None), model.config.pad_token_id
    if chosen is None or chosen == before:
        return []
    model.config.pad_token_id = chosen
    return [
        f"config.json names token {chosen} as padding now, which the head skips (before: {before})"
    ]
