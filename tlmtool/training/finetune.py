"""Fine-tuning: a checkpoint, a task and a strategy become a trained model, and what it did."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import nn
from transformers import AutoConfig

from tlmtool.compression.planning import select
from tlmtool.data import labelled
from tlmtool.data.tasks import texts
from tlmtool.failure import MissingDependency, Usage
from tlmtool.measuring.comparison import held_out, parity, probe
from tlmtool.models import checkpoint
from tlmtool.models.attending import mixing
from tlmtool.models.modeling import adopt
from tlmtool.models.modeling import merge as merge_model
from tlmtool.models.surgery import factorized
from tlmtool.schema import Recipe
from tlmtool.training.distilling import lesson, measure_of
from tlmtool.training.expansion import Expansion, keep_cores, lifted, merge
from tlmtool.training.heads import LANGUAGE, dropouts, head_of
from tlmtool.training.loop import Outcome, Trainer
from tlmtool.training.objectives import Distilled, Labelled, Language, Objective
from tlmtool.training.state import Store

LR, LR_DISTIL = 5e-5, 5e-4
WAYS = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)  # weights whole on each process
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


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with what depends on other parts of it."""
    given, teacher = recipe.training, recipe.distillation.teacher
    lr = given.lr or (LR_DISTIL if teacher else LR)
    train = given.train or ("factors" if teacher else "all")
    return replace(recipe, training=replace(given, lr=lr, train=train))


def accelerator_of(recipe: Recipe, out: Path | None = None) -> Accelerator:
    """Of the recipe's device and precision, over as many processes as were launched; its tracker,
    where one is asked for, writes to a folder beside `out`."""
    place, tracker = checkpoint.device_of(recipe.device), recipe.training.tracker if out else None
    if tracker and find_spec(tracker) is None:
        raise MissingDependency(f"--tracker {tracker} needs its package (pip install {tracker})")
    made = Accelerator(
        cpu=place.type == "cpu",
        mixed_precision=recipe.training.precision,
        log_with=tracker,
        project_dir=out.parent if tracker else None,
    )
    if made.distributed_type not in WAYS:
        way = made.distributed_type.value
        raise Usage(f"tlm trains in one process or under DDP, not under {way}: it shards weights")
    if tracker:
        made.init_trackers(f"{out.name}.{tracker}")
    return made


def prepare(recipe: Recipe, load: Callable[..., nn.Module], tokenizer: Any) -> Job:
    """The model with the head that the task needs, and the examples; `load(name, **more)`."""
    if recipe.distillation.teacher:
        job = _distilled(recipe, load, tokenizer)
    elif recipe.training.task in LANGUAGE:
        job = _language(recipe, load, tokenizer)
    else:
        job = _labelled(recipe, load, tokenizer)
    freeze(recipe, job)
    if recipe.training.checkpointing:
        job.model.gradient_checkpointing_enable()
    return job


def freeze(recipe: Recipe, job: Job) -> None:
    """Everything but the factors and converted attention, where only these are to move."""
    if recipe.training.train == "factors":
        held = {id(f) for _, m in factorized(job.model) for f in m.factors.values()}
        held |= {id(p) for module in mixing(job.model) for p in module.parameters()}
        if not held:
            raise Usage(f"{recipe.model} holds no factors to train: give --train all")
        for parameter in job.model.parameters():
            parameter.requires_grad_(id(parameter) in held)


def _head(recipe: Recipe, load: Callable, task: Any) -> tuple[nn.Module, bool]:
    """The model with the task's head, and whether the checkpoint had it."""
    folder = checkpoint.resolve(recipe.model, recipe.revision)
    head, changes, has = head_of(checkpoint.read_config(folder), recipe.model, task)
    if (share := recipe.training.dropout) is not None:
        changes |= dropouts(AutoConfig.from_pretrained(folder).to_dict(), share)
    torch.manual_seed(recipe.seed)  # a new head
    return load(recipe.model, head=head, changes=changes), has


def _aside(recipe: Recipe, train: list, dev: list) -> tuple[list, list, str]:
    """(examples to train on, examples to watch, note): choices are never made on the dev split."""
    choosing = recipe.training.keep_best or recipe.training.patience
    if not choosing:
        return train, dev, "the development split"
    rest = [each for i, each in enumerate(train) if i % SET_ASIDE != SET_ASIDE - 1]
    return rest, train[SET_ASIDE - 1 :: SET_ASIDE], "a tenth of train, set aside for choosing"


def _labelled(recipe: Recipe, load: Callable, tokenizer: Any) -> Job:
    given = recipe.training
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    found = labelled.splits(given.task, given.data, **columns)
    model, has = _head(recipe, load, found.task)
    _pad(model, tokenizer)
    train, watched, where = _aside(recipe, found.train, found.dev)
    objective = Labelled(model, tokenizer, found.task, train, watched, given.max_length)
    final = Labelled(model, tokenizer, found.task, found.dev[:1], found.dev, given.max_length)
    notes = {"examples": len(train), "dev": len(found.dev), "watched": where}
    return Job(model, objective, final.measure, found.source, notes, has)


def _language(recipe: Recipe, load: Callable, tokenizer: Any) -> Job:
    given = recipe.training
    folder = Path(given.data).expanduser() if given.data else None
    names = [folder / f"{n}.txt" for n in ("train", "dev", "valid", "validation")] if folder else []
    there = [file for file in names if file.is_file()]
    if folder and folder.is_dir() and len(there) == 2 and there[0] == names[0]:
        train, dev = texts(there[0]), texts(there[1])
    else:
        train, dev = held_out(texts(given.data, None, 0))
    model, has = _head(recipe, load, given.task)
    train, watched, where = _aside(recipe, train, dev)
    objective = Language(model, tokenizer, train, watched, given.max_length, recipe.seed)
    final = Language(model, tokenizer, dev[:1], dev, given.max_length, recipe.seed)
    notes = {"examples": len(train), "dev": len(dev), "watched": where}
    return Job(
        model, objective, final.measure, given.data or "the text that comes with tlm", notes, has
    )


def _distilled(recipe: Recipe, load: Callable, tokenizer: Any) -> Job:
    given, wanted = recipe.training, recipe.distillation
    if given.task in LANGUAGE:
        raise Usage(f"--teacher goes with a labelled task or none, not with {given.task}")
    teacher = load(wanted.teacher)
    if given.task:
        inner = _labelled(recipe, load, tokenizer)
        if type(teacher).__name__.removeprefix("Tlm") != type(inner.model).__name__.removeprefix(
            "Tlm"
        ):
            raise Usage(f"the teacher {wanted.teacher} has no head for task {given.task}")
        inner.objective = Distilled(
            inner.model, teacher, inner.objective, None, wanted.temperature, True
        )
        return inner
    model = load(recipe.model)
    found = lesson(given.data, 0)
    name, better, score = measure_of(found, teacher, tokenizer, given.max_length)
    plain = Objective(model, tokenizer, found.sentences, None, given.max_length)
    objective = Distilled(model, teacher, plain, score, wanted.temperature, False)
    objective.name, objective.better = name, better
    notes = {"examples": len(found.sentences), "dev": len(found.pairs or found.held)}
    return Job(model, objective, objective.measure, found.source, notes, True)


def _pad(model: nn.Module, tokenizer: Any) -> None:
    """A classifier that looks for the last token needs to know which one pads."""
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id


def run(
    recipe: Recipe, job: Job, accelerator: Accelerator, store: Store | None = None, **shown: Any
) -> Outcome:
    """Train the model of a job in place, by the recipe's strategy. `shown`: `tick`, `tell`."""
    waiting = lifted(job.model)
    if recipe.strategy.name != "none":
        held = {each.site for each in waiting}
        roles = select(job.model, recipe.strategy.sites)
        job.roles = {s: r for s, r in roles.items() if r != "embedding" and s not in held}
    trainer = Trainer(
        job.model,
        job.objective,
        recipe.training,
        recipe.strategy,
        roles=job.roles,
        waiting=waiting,
        accelerator=accelerator,
        seed=recipe.seed,
        tuned=job.tuned,
        store=store,
        **shown,
    )
    outcome = trainer.run()
    if recipe.training.keep_best and outcome.best:
        trainer.back_to(outcome.best.pop("weights"))
    return outcome


def finish(recipe: Recipe, model: nn.Module, expansions: list[Expansion]) -> dict[str, float]:
    """Cores multiplied out, or kept as factors; how far the outputs are from those in training."""
    before = probe(model, recipe.seed)
    if recipe.strategy.no_merge:
        keep_cores(model, expansions)
    else:
        merge(model, expansions)
    after = probe(model, recipe.seed)
    if any(factorized(model)):
        adopt(model)
    else:
        merge_model(model)
    return parity(after, before)
