"""The verb finetune: Recipe -> Report."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tlmtool.bookkeeping import Run, out_folder, provenance
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.counting import count_parameters
from tlmtool.measuring.outputs import shortened
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models import checkpoint
from tlmtool.models.surgery import sites
from tlmtool.recipe import Recipe, to_dict
from tlmtool.report import Report
from tlmtool.training import finetune as training
from tlmtool.training import fresh, jobs
from tlmtool.training.loop import Outcome
from tlmtool.training.state import Store
from tlmtool.training.study import Study


def finetune(recipe: Recipe) -> Report:
    """Train a checkpoint on a task, or to give a teacher's hidden states, and write it."""
    recipe = training.resolved(recipe)
    if not recipe.fresh.from_config:
        return _trained_from(recipe, checkpoint.resolve(recipe.model, recipe.revision))
    with TemporaryDirectory() as made:  # what is drawn needs no folder of weights
        folder = Path(made) / fresh.name_of(recipe)
        fresh.write(recipe, folder)
        return _trained_from(recipe, folder)


def _trained_from(recipe: Recipe, folder: Path) -> Report:
    """`finetune` of what lies in a folder: a checkpoint, or config and tokenizer of a new model."""
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which fine-tuning needs")
    tokenizer.name_or_path = recipe.model or f"a new {folder.name}"
    if recipe.output.dry_run:
        return _predicted(recipe, folder, tokenizer)
    if recipe.study.seeds:
        return _studied(recipe, folder, tokenizer)
    new = None if recipe.model else folder.name
    out = out_folder(recipe, recipe.training.task or "distilled", new)
    accelerator = training.accelerator_of(recipe, out)
    store = Store(out, _identity(recipe) | {"processes": accelerator.num_processes})
    _check_store(recipe, store)
    with Run(recipe) as run, PeakMemory(accelerator.device) as memory:
        job = jobs.prepare(recipe, _loader(run, folder), tokenizer, folder)
        data = {"model": provenance(recipe, folder, job.model, out), "data": job.source}
        job.objective.progress = run.bars.of("scoring")
        before, scores = count_parameters(job.model), {}
        if job.tuned:
            with run.stage("evaluate"):
                scores["before"] = job.dev(job.model)
        with run.stage("train"):
            shown = (
                {"tick": _bar(run), "tell": run.bars.line} if accelerator.is_main_process else {}
            )
            outcome = training.run(recipe, job, accelerator, store, **shown)
            accelerator.end_training()
        parity = training.finish(recipe, job.model, outcome.expansions)
        with run.stage("evaluate"):
            scores["after"] = job.dev(job.model)
        name, better = job.final
        data["scores"] = scores | {"name": name, "better": better}
        data["training"] = _trained(recipe, job, outcome)
        data |= {"selections": outcome.selections, "expansions": _expansions(job, outcome)}
        data |= {"parity": parity} if outcome.expansions else {}
        data["warnings"] = _warnings(recipe, job, outcome)
        data["parameters"] = {"before": before, "after": count_parameters(job.model)}
    data["peak_memory_bytes"] = memory.bytes
    if not accelerator.is_main_process:
        return run.report(data)
    report = run.save(job.model, folder, out, data)
    store.remove()
    return report


def _predicted(recipe: Recipe, folder: Path, tokenizer: Any) -> Report:
    """The cost of the training without the training."""
    with Run(recipe) as run:
        job = jobs.prepare(recipe, _loader(run, folder), tokenizer, folder)
        model = provenance(recipe, folder, job.model, None)
        data = {"model": model, "data": job.source, "predicted": True}
        return run.report(data | training.forecast(recipe, job))


def _studied(recipe: Recipe, folder: Path, tokenizer: Any) -> Report:
    """The comparison of `--seeds`: results in `--out`, one file for each arm and seed."""
    used = recipe.training
    if used.keep_best or used.patience:
        raise Usage(
            "a study compares arms at equal steps: --keep-best and --patience do not go with it"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Usage("a study runs in one process: launch it without torchrun or accelerate")
    given = recipe.output.out or f"out/study-{folder.name}-{used.task}"
    out = Path(given).expanduser()
    identity, kept = _identity(recipe), out / "study.json"
    if recipe.output.overwrite and kept.exists():
        shutil.rmtree(out)
    if out.exists() and not recipe.training.resume and any(out.iterdir()):
        raise Usage(f"--out {out} is not empty: --resume goes on with the study in it")
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != identity:
        raise Usage(f"{out} holds another study: resume with the same recipe, or another --out")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    with Run(recipe) as run:
        load = _loader(run, folder)
        study = Study(recipe, out, load, tokenizer, folder, run.bars.line, _bar(run))
        with run.stage("study"):
            found = study.run()
    model = {"id": recipe.model or f"a new {folder.name}", "out": str(out)}
    report = run.report({"model": model, "study": found})
    (out / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    return report


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was killed."""
    kept = to_dict(recipe)
    sections = ("training", "distillation", "strategy", "study", "fresh", "config", "attention")
    same = {f"{s}.{k}": v for s in sections for k, v in kept.get(s, {}).items()}
    free = ("training.resume", "training.save_every", "training.tracker", "study.seeds")
    top = {key: kept.get(key) for key in ("model", "seed", "dtype")}
    return top | {k: v for k, v in same.items() if k not in free}


def _check_store(recipe: Recipe, store: Store) -> None:
    """An interrupted run is gone on with, or replaced, only where that was asked for."""
    if store.there and not recipe.training.resume:
        if not recipe.output.overwrite:
            raise Usage(
                f"{store.folder} holds an interrupted run: --resume goes on with it, "
                "--overwrite starts again"
            )
        store.remove()


def _loader(run: Run, folder: Path) -> Callable[..., Any]:
    """`run.load` in float32, which AdamW needs, unless a dtype is asked for; for a new model what
    draws it."""
    asked, recipe = run.recipe.dtype, run.recipe
    if recipe.fresh.from_config:
        return lambda _, head, changes: fresh.build(recipe, folder, head, changes)
    return lambda name, **more: run.load(name, "float32" if asked == "auto" else asked, **more)


def _bar(run: Run) -> Callable[[int, int, float], None]:
    return lambda step, of, loss: run.bars("training", step, of, f"loss {loss:.4f}")


def _trained(recipe: Recipe, job: jobs.Job, outcome: Outcome) -> dict[str, Any]:
    """The part `training` of a report."""
    used = recipe.training
    tail = outcome.losses[-50:]
    return {
        "task": used.task or "distillation",
        "steps": outcome.steps,
        "batch": used.batch,
        "lr": used.lr,
        "strategy": recipe.strategy.name,
        "last_loss": sum(tail) / len(tail),
        "metric": job.objective.name,
        "history": outcome.history,
        "chosen_step": outcome.best.get("step") if used.keep_best else None,
        **job.notes,
    }


def _warnings(recipe: Recipe, job: jobs.Job, outcome: Outcome) -> list[str]:
    """What was asked for and could not be done."""
    wanted, asked = recipe.strategy, recipe.training.max_length
    used, found = job.notes.get("max_length", asked), shortened(job.model, asked)
    if recipe.training.pack and used < asked and not found:
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
            f"{outcome.steps:,} steps held selections for {taken[role]} of {min(wanted.N, n)} "
            f"matrices of {role}: lower --every, or raise --n"
        )
    return found


def _expansions(job: jobs.Job, outcome: Outcome) -> list[dict[str, Any]]:
    """The part `expansions` of a report: one expanded matrix each."""
    roles = sites(job.model)
    return [
        {
            "site": each.site,
            "role": roles[each.site],
            "decomposition": each.decomposition.to_dict(),
            "growth": sum(core.numel() for core in each.cores.values()) / each.weight.numel(),
            "step_ratio": each.ratio,
            "max_abs": each.error,
            "first_update": each.moves,
        }
        for each in outcome.expansions
    ]
