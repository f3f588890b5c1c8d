"""Fine-tuning: trains the model of a job by a strategy, and says what was done."""

import os
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.state import AcceleratorState
from torch import nn

from tlmtool.data.state import Store
from tlmtool.failure import MissingDependency, Usage
from tlmtool.measuring.comparison import check, parity, probe
from tlmtool.measuring.outputs import shortened
from tlmtool.models import checkpoint
from tlmtool.models.factorized import shape
from tlmtool.models.modeling import adopt, merge
from tlmtool.models.surgery import Plan, factorized, sites
from tlmtool.recipe.schema import Recipe
from tlmtool.report.parts.expansions import Expansion as Expanding
from tlmtool.report.parts.parity import Parity
from tlmtool.report.parts.step import Expanded, Step
from tlmtool.training import memory, sharding
from tlmtool.training.expansion import Expansion, keep_cores, lifted, multiply_out
from tlmtool.training.growth import linears, predicted, records
from tlmtool.training.heads import skipping
from tlmtool.training.job import Job
from tlmtool.training.loop import Trainer
from tlmtool.training.order import length_of
from tlmtool.training.outcome import Outcome
from tlmtool.training.resuming import back_to
from tlmtool.training.strategy import decomposition_of

LR, LR_DISTIL = 5e-5, 5e-4  # the default rates, without a teacher and with one
WAYS = (  # accelerate sees FSDP as one of them too (`sharding.unsaid`)
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)
OTHER = "tlm trains in one process, under DDP or FSDP, not under {}"
WHOLE = "FSDP shards the matrices that over-parameterizing needs whole: use DDP (no --use_fsdp)"
SHARDING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with the defaults that depend on its other parts."""
    given, teacher = recipe.training, recipe.distillation.teacher
    usual = LR_DISTIL if teacher else LR
    lr = given.lr or (None if recipe.study.lr_grid else usual)  # a study picks one of its grid
    train = given.train or ("factors" if teacher else "all")
    return replace(recipe, training=replace(given, lr=lr, train=train))


def check_launch(recipe: Recipe) -> None:
    """Raises Usage for a launch that does not work, by accelerate's own variables. Call it before
    anything else."""
    for name, way in SHARDING.items():
        if sharding.on(name):
            raise Usage(OTHER.format(way))
    if sharding.asked() and recipe.strategy.name != "none":
        raise Usage(WHOLE)


def accelerator_of(recipe: Recipe, out: Path | None = None) -> Accelerator:
    """An accelerator for the recipe's device and precision, over all processes that were launched.
    A tracker that is asked for writes to a folder beside `out`."""
    check_launch(recipe)
    place, tracker = checkpoint.device_of(recipe.device), recipe.training.tracker if out else None
    if tracker and find_spec(tracker) is None:
        raise MissingDependency(f"--tracker {tracker} needs its package (pip install {tracker})")
    if "WORLD_SIZE" not in os.environ:  # a second training of a Python process may have others
        AcceleratorState._reset_state(reset_partial_state=True)
    if place.index is not None:
        torch.cuda.set_device(place)
    partly = DistributedDataParallelKwargs(find_unused_parameters=True)  # the head may be unused
    with sharding.unsaid():
        made = Accelerator(
            cpu=place.type == "cpu",
            mixed_precision=recipe.training.precision,
            log_with=tracker,
            project_dir=out.parent if tracker else None,
            kwargs_handlers=[partly] if recipe.distillation.teacher else None,
        )
    if made.distributed_type not in WAYS:
        raise Usage(OTHER.format(made.distributed_type.value))
    if tracker:
        made.init_trackers(f"{out.name}.{tracker}")
    return made


def competing(recipe: Recipe, model: nn.Module, held: set[str]) -> tuple[dict[str, str], Plan]:
    """{site: role} of what a strategy may expand, and the plan that expands all of it. `held`: the
    sites that are expanded already. Raises Usage where a site cannot be expanded."""
    wanted = recipe.strategy
    if wanted.name == "none":
        return {}, {}
    roles = {s: r for s, r in linears(model, wanted.sites).items() if s not in held}
    base = model.base_model
    shapes = {site: shape(base.get_submodule(site)) for site in roles}
    return roles, {site: decomposition_of(wanted, *each) for site, each in shapes.items()}


def forecast(recipe: Recipe, job: Job, held: set[str] | None = None) -> tuple[Step, Expanded]:
    """What `train` will cost, without training: its steps, and one step once all is expanded.
    `held`: the sites that are expanded already, where they are known."""
    used, plan, counts = recipe.training, {}, Counter()
    lengths = job.objective.lengths
    if held is None:
        held = {each.site for each in lifted(job.model)}
    roles, whole = competing(recipe, job.model, held)
    for site, role in roles.items():
        counts[role] += 1
        if counts[role] <= recipe.strategy.N:
            plan[site] = whole[site]
    _, steps = length_of(lengths, used.batch, used.accumulate, 0, used.epochs, used.steps)
    length = ceil(fmean(lengths) / job.objective.sequences)
    step = predicted(job.model, plan, used.batch, length, job.objective.share)
    note = f"{step.note}; {steps:,} steps; mean length of {len(lengths):,} examples"
    larger = Expanded(expanded=records(job.model, plan))
    return replace(step, note=note, steps=steps), larger


def train(
    recipe: Recipe, job: Job, accelerator: Accelerator, store: Store | None = None, **shown: Any
) -> Outcome:
    """Train the model of a job in place, by the recipe's strategy. `shown`: `tick` and `tell` of
    `Trainer`."""
    if accelerator.device.type == "cpu":
        memory.keep()
    waiting = lifted(job.model)
    if waiting and sharding.asked():
        raise Usage(WHOLE)
    if accelerator.num_processes > 1 and (name := skipping(job.model.config.to_dict())):
        raise Usage(
            f"{name} of this model skips other layers in each process: train in one process, or "
            "set it to 0 in its config.json"
        )
    job.roles, _ = competing(recipe, job.model, {each.site for each in waiting})
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
    if trainer.world > 1:
        job.notes |= {"processes": trainer.world, "sharded": trainer.sharded}
    outcome = trainer.train()
    accelerator.unwrap_model(trainer.wrapped, keep_fp32_wrapper=False)
    for name in ("forward", "_original_forward"):  # accelerate sets these for mixed precision
        job.model.__dict__.pop(name, None)
    accelerator.free_memory()
    if recipe.training.keep_best and outcome.best:
        back_to(trainer, outcome.best.pop("weights"))
    return outcome


def finish(recipe: Recipe, model: nn.Module, expansions: list[Expansion]) -> Parity:
    """Multiply the cores out, or keep them as factors. Returns how far the outputs are from those
    in training; raises CheckFailed where they are too far."""
    before = probe(model, recipe.seed)
    if recipe.strategy.no_merge:
        keep_cores(model, expansions)
    else:
        multiply_out(model, expansions)
    found = parity(probe(model, recipe.seed), before)
    check(found, "the merged model differs from the trained one", model)
    if any(factorized(model)):
        adopt(model)
    else:
        merge(model)
    return found


def warnings_of(recipe: Recipe, job: Job, outcome: Outcome) -> list[str]:
    """What was asked for and could not be done, in sentences."""
    wanted, asked = recipe.strategy, recipe.training.max_length
    read = [job.model, *filter(None, [getattr(job.objective, "teacher", None)])]
    short = [warning for model in read for warning in shortened(model, asked)]
    found, used = job.warnings + short, job.notes.get("max_length", asked)
    found += [f"{told}; it counts as 0" for told in job.objective.told]
    more = ": --max-length N reads more of each" if used >= asked and not short else ""
    found += [f"{told}{more}" for told in job.objective.cut]
    if recipe.training.pack and used < asked and not short:
        found.append(f"--max-length {asked} is cut to {used}, the positions of this model")
    if wanted.name == "none":
        return found
    there = Counter(job.roles.values())
    most = max(there.values(), default=0)
    if most < wanted.N:
        found.append(f"--N {wanted.N} is capped at {most}, the layers of this model")
    chosen = [site for each in outcome.selections for site in each["chosen"]]
    taken = Counter(job.roles[site] for site in chosen)
    if short := {r: n for r, n in there.items() if taken[r] < min(wanted.N, n)}:
        role, n = next(iter(short.items()))
        found.append(
            f"{outcome.steps:,} steps were enough to select {taken[role]} of {min(wanted.N, n)} "
            f"matrices of {role}: lower --every, or raise --n"
        )
    return found


def expansions_of(job: Job, outcome: Outcome) -> tuple[Expanding, ...]:
    """The part `expansions` of a report: an entry for each expanded matrix."""
    roles = sites(job.model)
    return tuple(
        Expanding(
            site=each.site,
            role=roles[each.site],
            decomposition=each.decomposition.to_dict(),
            growth=sum(core.numel() for core in each.cores.values()) / each.weight.numel(),
            step_ratio=each.ratio,
            max_abs=each.error,
            first_update=each.moves,
        )
        for each in outcome.expansions
    )
