"""The verb compress: Recipe -> Report."""

import copy
import re
from dataclasses import replace
from typing import Any

from tlmtool.commands.calibrating import TEXT, Material, material_of, resolved, shortened
from tlmtool.commands.comparing import Comparison
from tlmtool.commands.converting import converted, longest_of, predicted
from tlmtool.commands.costs import Costs
from tlmtool.commands.forecasting import foreseen, foretold
from tlmtool.commands.provenance import provenance
from tlmtool.commands.resuming import ended_compression, inputs_of, journal_of
from tlmtool.commands.run import Run, out_folder, place_of
from tlmtool.commands.scoring import leaked, lesson_of, scoring_of
from tlmtool.compression.candidates import Candidates
from tlmtool.compression.compress import Outcome
from tlmtool.compression.compress import check as check_model
from tlmtool.compression.compress import compress as compress_model
from tlmtool.compression.journal import Journal
from tlmtool.compression.shelving import limited
from tlmtool.data.lessons import Lesson
from tlmtool.data.windows import Windows
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.measuring.samples import prompts_of
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.models.streaming import keep_in_memory
from tlmtool.recipe.building import Recipe
from tlmtool.report.building import built
from tlmtool.report.checks import checked_figure
from tlmtool.report.layout import Part
from tlmtool.report.parts.calibration import Allocation, Calibration
from tlmtool.report.parts.ending import Inputs
from tlmtool.report.parts.score import Score
from tlmtool.report.parts.sites import LeftDense, Site, Sites
from tlmtool.report.report import Report

QUALITY = re.compile(
    r"loss|perplexity|feature_error|(quality|calibration)\..*"
)  # figures that need a text, and so a tokenizer
CAUSAL = re.compile(r"perplexity|quality\.(perplexity|samples|tokens).*|calibration\.windows?")


def compress(recipe: Recipe) -> Report:
    """Factorize a checkpoint, replace its attention, or both.

    It is measured before and after, and written with its report."""
    asked, suffix = recipe, "-".join(filter(None, (recipe.attention.kind, _budget(recipe))))
    if found := ended_compression(recipe, place_of(recipe, suffix)):
        return found
    out = out_folder(recipe, suffix)
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe) as run:
        empty = run.empty(folder)
        recipe = run.recipe = resolved(run.recipe, empty)
        costs, tokenizer = Costs(empty, longest_of(recipe)), _tokenizer(recipe, folder)
        causal = objective_of(empty) == "clm"
        taught = lesson_of(recipe, folder, tokenizer, causal)
        material = material_of(recipe, empty, tokenizer, taught) if tokenizer else Material()
        sites = _check(recipe, empty, tokenizer, bool(material.texts))
        score = scoring_of(run, taught, empty, tokenizer, recipe.calibration.max_length)
        if sites and not recipe.attention.kind:
            run.forecast = foretold(run, empty, costs, sites, tokenizer, material, taught)
        if recipe.output.dry_run:
            return foreseen(run, folder, empty, costs, material)
        inputs = inputs_of(recipe, folder)
        journal = journal_of(run, asked, out, folder, inputs)
        if run.forecast and sites:
            kept = 0.0 if journal.plan is None else len(journal.done) / len(sites.roles)
            run.expect(run.forecast.going_on(kept, planned=journal.plan is not None))
        with PeakMemory(checkpoint.device_of(recipe.device)) as memory:
            model = run.load(folder)
            source, parts = provenance(recipe, folder, model, out), list[Part]()
            before = _measured(run, model, tokenizer, material)
            if score:
                with run.stage("measure"):
                    score(model)
            recovery = _recovery(run, model, tokenizer, taught, score, before)
            learnt = recovery.sentences if recovery else []
            warnings = shortened(recipe, model, tokenizer, material, learnt)
            warnings += leaked(taught, material.texts)
            if recipe.attention.kind:
                quality = before and before.quality
                model, layers = converted(run, model, tokenizer, material.texts, quality, warnings)
                parts.append(layers)
            outcome = _compressed(run, model, tokenizer, material.texts, journal)
            if recovery:
                keep_in_memory(model)
                with run.stage("recover"):
                    parts.append(recovery.recover(model))
            after = costs.and_after(model, _chosen(outcome) or None)
            warnings += outcome.warnings + material.warnings
            measured = list[Part]()
            if before:
                warnings = before.told(model, measured, warnings, recovery and recovery.after)
            if score:
                measured.append(_scored(run, score, model, trained=recovery is not None))
                warnings += [each for each in score.warnings if each not in run.warnings]
            parts = [source, *after, *measured, *_notes(outcome, material.part), *parts]
            parts.append(Inputs(inputs=inputs))
        report = run.save(model, folder, out, parts, warnings, memory.bytes)
        journal.remove()
        return report


def _check(recipe: Recipe, empty: Any, tokenizer: Any, weighed: bool) -> Candidates | None:
    """The sites of the budget, if there is one. Raises a Failure for whatever the shapes of the
    model and the data already rule out. This comes before any weights are loaded."""
    named = checked_figure(recipe.output.fail_if)
    objective = objective_of(empty)
    if tokenizer is None and QUALITY.fullmatch(named):
        raise Usage(f"{recipe.model} has no tokenizer, so that {named} is not measured")
    if CAUSAL.fullmatch(named) and objective != "clm":
        raise Usage(f"{recipe.model} is no causal language model: it has no {named}")
    if named == "loss" and objective is None:
        raise Usage(f"{recipe.model} has no language-model head: check its feature_error, not loss")
    if named == "feature_error" and objective:
        raise Usage(f"{recipe.model} has a language-model head: check its loss, not feature_error")
    if recipe.language.prompts and objective != "clm":
        raise Usage(f"{recipe.model} is no causal language model: leave out --prompts")
    prompts_of(recipe.language.prompts)
    if recipe.attention.kind:
        empty = copy.deepcopy(empty)
        predicted(recipe, empty, [])
    return check_model(empty, recipe.compression, weighed) if _budget(recipe) else None


def _budget(recipe: Recipe) -> str:
    """'rank8'; empty where only the attention changes."""
    wanted = recipe.compression
    given = {"rank": wanted.rank, "keep": wanted.keep, "energy": wanted.energy}
    return next((f"{name}{value}" for name, value in given.items() if value is not None), "")


def _compressed(
    run: Run,
    model: Any,
    tokenizer: Any,
    texts: list[str] | Windows,
    journal: Journal | None = None,
) -> Outcome:
    recipe, wanted = run.recipe, run.recipe.compression
    if not _budget(recipe):
        return Outcome({})
    with limited(run.limit and run.limit.activations):
        outcome = compress_model(
            model,
            rank=wanted.rank,
            keep=wanted.keep,
            energy=wanted.energy,
            sites=wanted.sites,
            ignore=wanted.ignore,
            method=wanted.method,
            blocks=wanted.blocks,
            allocate=wanted.allocate,
            overrides=wanted.overrides,
            tokenizer=tokenizer,
            texts=texts,
            max_length=recipe.calibration.max_length or TEXT,
            sequential=wanted.fit == "sequential",
            seed=recipe.seed,
            dry_run=recipe.output.dry_run,
            progress=run.bars,
            journal=journal,
        )
    run.seconds |= outcome.seconds
    if tokenizer is None and not recipe.output.dry_run:
        outcome.warnings.append(
            f"{recipe.model} has no tokenizer: no text weighs the error, and no loss is measured"
        )
    return outcome


def _scored(run: Run, score: BeforeAfter, model: Any, trained: bool) -> Score:
    """The score before and after; a recovery has scored what it trained."""
    with run.stage("measure"):
        if not trained:
            score(model)
        return score.compared()


def _recovery(
    run: Run,
    model: Any,
    tokenizer: Any,
    taught: Lesson | None,
    score: BeforeAfter | None,
    before: Comparison | None,
) -> Any:
    """The training of `--recover`, which copies the model while it is dense; None without it."""
    if run.recipe.recovery.steps is None or taught is None:
        return None
    from tlmtool.training.recovery import Recovery

    quality = before and before.quality
    return Recovery(run.recipe, model, tokenizer, run.bars, taught, score, quality)


def _chosen(outcome: Outcome) -> list[str]:
    return [*outcome.plan, *outcome.left_dense]


def _notes(outcome: Outcome, calibration: Calibration) -> list[Part]:
    """The parts of a report on the text, the allocation and the sites."""
    left = (LeftDense(site=site, reason=why) for site, why in outcome.left_dense.items())
    return [
        replace(calibration, tokens=outcome.tokens or None),
        Allocation(loss=outcome.loss),
        Sites(sites=tuple(built(Site, e) for e in outcome.sites), left_dense=tuple(left)),
    ]


def _measured(run: Run, model: Any, tokenizer: Any, material: Material) -> Comparison | None:
    if tokenizer is None:
        return None
    length = run.recipe.calibration.max_length or TEXT
    return Comparison(run, model, tokenizer, material.held, length)


def _tokenizer(recipe: Recipe, folder: Folder) -> Any:
    """The tokenizer of the folder, or None; without one a calibration text is refused."""
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is None and recipe.calibration.text not in (None, "none"):
        raise NotLoadable(
            f"{recipe.model} has no tokenizer, so --calibration {recipe.calibration.text} cannot "
            "be read; add the tokenizer's files or give --calibration none"
        )
    return tokenizer
