"""The verb finetune: Recipe -> Report."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tlmtool.commands.calibrating import WINDOW
from tlmtool.commands.comparing import Comparison
from tlmtool.commands.provenance import provenance
from tlmtool.commands.resuming import check_free, ended
from tlmtool.commands.run import Run, out_folder, place_of
from tlmtool.commands.studying import studied
from tlmtool.data.fingerprints import sums_of
from tlmtool.data.state import Store
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.counting import count_parameters
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.perplexity import context_of
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.measuring.samples import prompts_of
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe, to_dict
from tlmtool.recipe.inputs import spelled
from tlmtool.report.building import built
from tlmtool.report.checks import checked_figure
from tlmtool.report.layout import Part
from tlmtool.report.parts.costs import Parameters
from tlmtool.report.parts.ending import Inputs, Predicted, Source
from tlmtool.report.parts.expansions import Expansions, Selection, Selections
from tlmtool.report.parts.training import Scores, Training
from tlmtool.report.report import Report
from tlmtool.training import finetune as training
from tlmtool.training import fresh, jobs
from tlmtool.training.expansion import lifted
from tlmtool.training.job import Job
from tlmtool.training.outcome import Outcome

QUALITY = ("perplexity", "quality.")  # figures of a causal language model


def finetune(recipe: Recipe) -> Report:
    """Train a checkpoint on a task, or on the hidden states of a teacher, and write it."""
    training.check_launch(recipe)
    recipe = training.resolved(recipe)
    if not recipe.fresh.from_config:
        return _trained_from(recipe, Folder.of(recipe.model, recipe.revision))
    with TemporaryDirectory() as made:  # what is drawn needs no folder of weights
        folder = Path(made) / fresh.model_name(recipe)
        fresh.write(recipe, folder)
        return _trained_from(recipe, Folder(folder))


def _trained_from(recipe: Recipe, folder: Folder) -> Report:
    """`finetune` from a folder: a checkpoint, or the config and tokenizer of a new model."""
    if recipe.model:
        folder.check()
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which fine-tuning needs")
    tokenizer.name_or_path = recipe.model or f"a new {folder.name}"
    prompts_of(recipe.language.prompts)
    if recipe.model and recipe.strategy.name != "none":  # refused before any weights are loaded
        stored = "float32" if recipe.dtype == "auto" else recipe.dtype
        empty = checkpoint.empty(folder, stored, lambda _: None)
        training.competing(recipe, empty, {each.site for each in lifted(empty)})
    if recipe.output.dry_run and not recipe.study.seeds:
        return _predicted(recipe, folder, tokenizer)
    identity, inputs = _identity(recipe), sums_of(recipe)
    if recipe.study.seeds:
        load = partial(_loader, folder=folder)
        return studied(recipe, folder, tokenizer, identity | {"inputs": inputs}, load, _bar)
    suffix, new = recipe.training.task or "distilled", None if recipe.model else folder.name
    there = place_of(recipe, suffix, new)
    if found := ended(recipe, there, _same, inputs, Store(there, identity)):
        return found
    out = out_folder(recipe, suffix, new)
    accelerator = training.accelerator_of(recipe, out)
    store = Store(out, identity | {"processes": accelerator.num_processes}, inputs)
    check_free(recipe, store)
    with Run(recipe) as run, PeakMemory(accelerator.device) as memory:
        run.kept = lambda: f"its state is in {store.folder}" if store.own else ""
        job = jobs.prepare(recipe, _loader(run, folder), tokenizer, folder)
        _check_figure(recipe, job)
        source = provenance(recipe, folder, job.model, out)
        if "model" not in inputs:  # it is from the Hub, or drawn
            store.identity["input"] = " ".join(s[:12] for s in (source.sha256 or {}).values())
        job.objective.progress = run.bars.of("scoring")
        size, before, compared = count_parameters(job.model), None, _compared(run, job, tokenizer)
        if job.tuned:
            with run.stage("evaluate"):
                before = job.dev(job.model)
        with run.stage("train"):
            first = accelerator.is_main_process
            shown = {"tick": _bar(run), "tell": run.bars.line} if first else {}
            outcome = training.train(recipe, job, accelerator, store, **shown)
            accelerator.end_training()
        parity = training.finish(recipe, job.model, outcome.expansions)
        with run.stage("evaluate"):
            after = job.dev(job.model)
        parts = [source, *_trained(recipe, job, outcome, before, after)]
        parts.append(Parameters(before=size, after=count_parameters(job.model)))
        parts += [parity] if outcome.expansions else []
        parts += [Source(data=job.source), Inputs(inputs=inputs)]
        told = training.warnings_of(recipe, job, outcome)
        if compared:
            told = compared.told(job.model, parts, told)
    if not accelerator.is_main_process:
        return run.report(parts, told, memory.bytes)
    report = run.save(job.model, folder, out, parts, told, memory.bytes)
    store.remove()
    return report


def _check_figure(recipe: Recipe, job: Job) -> None:
    """Raises Usage where `--fail-if` names a figure that this job will not have."""
    named = checked_figure(recipe.output.fail_if)
    if not job.tuned and named.startswith("scores.before"):
        raise Usage(f"the head of {recipe.model} is new, so that it has no scores before")
    if recipe.training.task is None and named.startswith(QUALITY) and not job.held:
        raise Usage(f"{recipe.model} is no causal language model: it has no {named}")


def _compared(run: Run, job: Job, tokenizer: Any) -> Comparison | None:
    """The perplexity and the samples of a causal language model before the training; None for
    other models."""
    if not job.held or objective_of(job.model) != "clm":
        return None
    length = min(WINDOW, context_of(job.model) or WINDOW)
    if run.recipe.fresh.from_config:  # it learns nothing of places after those that it trains on
        length = min(length, job.notes["max_length"])
    return Comparison(run, job.model, tokenizer, job.held, length, "evaluate", not job.tuned)


def _predicted(recipe: Recipe, folder: Folder, tokenizer: Any) -> Report:
    """The report of a dry run: what the training would cost."""
    with Run(recipe) as run:
        job = jobs.prepare(recipe, _loader(run, folder), tokenizer, folder)
        model, source = provenance(recipe, folder, job.model, None), Source(data=job.source)
        return run.report(
            [model, Predicted(predicted=True), *training.forecast(recipe, job), source]
        )


def _identity(recipe: Recipe) -> dict[str, Any]:
    """The settings that a resumed run must share with the one that was killed."""
    return _same(to_dict(recipe))


def _same(kept: dict[str, Any]) -> dict[str, Any]:
    """The same, of a recipe in plain values."""
    kept = spelled(kept)
    sections = ("training", "distillation", "strategy", "study", "fresh", "config", "attention")
    held = ((s, kept[s]) for s in sections if isinstance(kept.get(s), dict))
    same = {f"{s}.{k}": v for s, each in held for k, v in each.items()}
    free = ("training.resume", "training.save_every", "training.tracker", "study.seeds")
    top = {key: kept.get(key) for key in ("model", "seed", "dtype")}
    return top | {k: v for k, v in same.items() if k not in free}


def _loader(run: Run, folder: Folder) -> Callable[..., Any]:
    """How a job gets its model: loaded in float32, which AdamW needs, unless there is a `--dtype`.
    For a new model it is the function that draws the weights."""
    asked, recipe = run.recipe.dtype, run.recipe
    if recipe.fresh.from_config:
        return lambda _, head, changes, has: fresh.build(recipe, folder, head, changes)
    dtype = "float32" if asked == "auto" else asked

    def load(name: str, **more: Any) -> Any:
        return run.load(folder if name == recipe.model else Folder.of(name), dtype, **more)

    return load


def _bar(run: Run) -> Callable[[int, int, str], None]:
    return lambda step, of, note: run.bars("training", step, of, note)


def _trained(
    recipe: Recipe,
    job: Job,
    outcome: Outcome,
    before: dict[str, Any] | None,
    after: dict[str, Any],
) -> list[Part]:
    """The scores before and after, the course of the training, and what it expanded."""
    used, (name, better) = recipe.training, job.final
    history = list(outcome.history)
    if outcome.evaluated < outcome.steps:  # the last steps, which no evaluation followed
        history.append({"step": outcome.steps, "loss": outcome.loss(outcome.evaluated)})
    course = {
        "task": used.task or "distillation",
        "steps": outcome.steps,
        "batch": used.batch,
        "lr": used.lr,
        "strategy": recipe.strategy.name,
        "last_loss": outcome.loss(max(0, outcome.steps - 50)),
        "metric": job.objective.name,
        "history": history,
        "chosen_step": outcome.best.get("step") if used.keep_best else None,
        **job.notes,
    }
    return [
        built(Scores, {"before": before, "after": after, "name": name, "better": better}),
        built(Training, course),
        Selections(selections=tuple(built(Selection, each) for each in outcome.selections)),
        Expansions(expansions=training.expansions_of(job, outcome)),
    ]
