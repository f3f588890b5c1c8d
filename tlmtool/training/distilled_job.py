"""The job of a distillation: what is learned from a teacher, and whether the teacher fits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from tlmtool.data.batching import joined_ids
from tlmtool.data.language import HELD, HELD_TOKENS
from tlmtool.data.lessons import Lesson, joined_lesson, lesson, texts_of
from tlmtool.data.windows import start_of_line, to_learn, without
from tlmtool.failure import Usage
from tlmtool.measuring.inputs import takes
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.perplexity import perplexity
from tlmtool.measuring.predictions import classes_of, nameless
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.training.distilling import Distilled, measure_of
from tlmtool.training.imitation import Imitation
from tlmtool.training.job import SET_ASIDE, Job, set_aside
from tlmtool.training.objectives import Objective
from tlmtool.training.task_jobs import labelled_job

TEMPERATURE = 2.0  # by default; a higher one shows more of what a teacher finds unlikely


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
        plain, temperature = job.objective, wanted.temperature or TEMPERATURE
        job.objective = Distilled(job.model, teacher, plain, None, temperature, labelled=True)
    else:
        job = _of_sentences(recipe, load(recipe.model), teacher, tokenizer)
    if isinstance(job.objective, Imitation):
        job.notes["taught"] = "outputs"
    else:
        heads = job.objective.heads(job.model)
        job.notes["taught"] = "hidden states and outputs" if heads else "hidden states"
    return job


def _of_sentences(recipe: Recipe, model: nn.Module, teacher: nn.Module, tokenizer: Any) -> Job:
    """Distillation on sentences, or for a causal language model on windows, without labels."""
    given, length = recipe.training, recipe.training.max_length
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    causal = all(objective_of(each) == "clm" for each in (model, teacher))
    found = lesson(given.data, columns=columns, tail=causal)
    _check_teacher(recipe, teacher, model, tokenizer, not causal)
    if causal:
        return _of_windows(recipe, model, teacher, tokenizer, found)
    train, aside, where = set_aside(recipe, found.sentences, [])
    final = watching = measure_of(found, teacher, tokenizer, length)
    plain = Objective(model, tokenizer, train, None, length)
    notes = {"examples": len(train), "dev": len(found.scored or found.held)}
    if aside:  # choices are made on sentences alone
        watched = Lesson(train, aside[:: max(1, len(aside) // HELD)][:HELD], None, [], where)
        watching = measure_of(watched, teacher, tokenizer, length)
        notes |= {"watched": f"{where}: feature error, lower is better"}
    name, better, score = watching
    temperature = recipe.distillation.temperature or TEMPERATURE
    objective = Distilled(model, teacher, plain, score, temperature, labelled=False)
    objective.name, objective.better, objective.final = name, better, final[:2]
    return Job(model, objective, lambda m: {"score": final[2](m)}, found.source, notes, True)


def _of_windows(
    recipe: Recipe, model: nn.Module, teacher: nn.Module, tokenizer: Any, found: Lesson
) -> Job:
    """Distillation of a causal language model on windows of text. The score is that of the rows of
    the lesson, or else the loss on text that is held out."""
    given = recipe.training
    length = min(given.max_length, position_limit(model) or given.max_length)
    text = joined_lesson(found, given.data)
    held = text.held or "\n".join(found.held)
    rest = without(text.rest, held, texts_of(found.scored))
    watched, where = held, "the development split"
    if given.keep_best or given.patience:  # choices are made on text that is not reported
        cut = start_of_line(rest, len(rest) - len(rest) // SET_ASIDE)
        rest, watched = rest[:cut], rest[cut:]
        where = "the last tenth of train, set aside for choosing"
    tokens = given.steps * given.batch * length if given.steps else len(rest)
    learned = to_learn(tokenizer, rest, length, max(length, tokens), found.source)

    def loss_on(part: str) -> tuple[int, Callable[[nn.Module], float]]:
        """How many windows a text has, and what measures the loss on it."""
        ids = joined_ids(tokenizer, part, HELD_TOKENS + 1)
        return -(-len(ids) // length), lambda m: perplexity(m, ids, window=length).mean

    (many, score), (_, watching) = loss_on(held), loss_on(watched)
    temperature = recipe.distillation.temperature or 1.0
    objective = Imitation(model, teacher, learned.rows, watching, temperature)
    notes = {"examples": len(learned.rows), "dev": many, "unit": f"windows of {length} tokens"}
    notes |= {"watched": where, "max_length": length}
    notes |= {"held_out": text.where} if text.held else {}
    if found.task:
        objective.name, objective.better, score = measure_of(found, teacher, tokenizer, length)
        objective.score = score
        notes["dev"] = len(found.scored)
    job = Job(model, objective, lambda m: {"score": score(m)}, found.source, notes, True)
    job.held = held
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


def _check_teacher(
    recipe: Recipe, teacher: nn.Module, model: nn.Module, tokenizer: Any, states: bool = True
) -> None:
    """Raises Usage where the two read other tokens, or where hidden states (`states`) are learned
    that cannot be compared."""
    name = recipe.distillation.teacher
    widths = [each.config.get_text_config().hidden_size for each in (teacher, model)]
    if states and len({*widths}) > 1:
        raise Usage(f"the teacher {name} has width {widths[0]}, {recipe.model} {widths[1]}")
    own = checkpoint.load_tokenizer(name)
    if own is not None and own.get_vocab() != tokenizer.get_vocab():
        raise Usage(f"the teacher {name} reads other tokens than {recipe.model}")
