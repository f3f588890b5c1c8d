"""The verb compress: Recipe -> Report."""

from dataclasses import replace
from typing import Any

from tlmtool.commands.calibrating import TEXT, Material, material_of, resolved, shortened
from tlmtool.commands.checking import checked, tokenizer_of
from tlmtool.commands.comparing import Comparison
from tlmtool.commands.converting import converted, longest_of
from tlmtool.commands.costs import Costs
from tlmtool.commands.forecasting import foreseen, foretold
from tlmtool.commands.learning import windows_of
from tlmtool.commands.provenance import provenance
from tlmtool.commands.quantizing import check as check_bits
from tlmtool.commands.quantizing import int8_beside, quantized
from tlmtool.commands.resuming import ended_compression, inputs_of, journal_of
from tlmtool.commands.run import Run, out_folder, place_of
from tlmtool.commands.scoring import leaked, lesson_of, scoring_of
from tlmtool.commands.several import several
from tlmtool.commands.targets import told_of, translated
from tlmtool.compression.candidates import Candidates
from tlmtool.compression.compress import Outcome
from tlmtool.compression.compress import compress as compress_model
from tlmtool.compression.journal import Journal
from tlmtool.compression.sharing import Shared
from tlmtool.compression.shelving import limited
from tlmtool.data.lessons import Lesson
from tlmtool.data.windows import Windows
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.models.packing import Packed
from tlmtool.models.streaming import keep_in_memory
from tlmtool.recipe.building import Recipe
from tlmtool.report.building import built
from tlmtool.report.layout import Part
from tlmtool.report.parts.calibration import Allocation, Calibration
from tlmtool.report.parts.ending import Inputs
from tlmtool.report.parts.score import Score
from tlmtool.report.parts.sites import LeftDense, Site, Sites
from tlmtool.report.report import Report


def compress(recipe: Recipe) -> Report:
    """Factorize a checkpoint, replace its attention, or both.

    It is measured before and after, and written with its report. Several budgets give a checkpoint
    each, and a report of them all."""
    if isinstance(recipe.compression.keep, tuple):
        return several(recipe, _compress)
    return _compress(recipe)


def _compress(recipe: Recipe, shared: Shared | None = None) -> Report:
    """The same for one budget. `shared`: what other budgets of the same model have measured."""
    asked, suffix = recipe, "-".join(filter(None, (recipe.attention.kind, _budget(recipe))))
    if found := ended_compression(recipe, place_of(recipe, suffix)):
        return found
    out = out_folder(recipe, suffix)
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe, shared) as run:
        check_bits(run)
        once = run.shared.once
        empty = run.empty(folder)
        recipe = run.recipe = translated(resolved(run.recipe, empty), empty)
        run.target = told_of(asked, recipe)
        costs, tokenizer = Costs(empty, longest_of(recipe)), tokenizer_of(recipe, folder)
        causal = objective_of(empty) == "clm"
        taught = once("lesson", lambda: lesson_of(recipe, folder, tokenizer, causal))
        material = _material(run, empty, tokenizer, taught)
        sites = checked(recipe, empty, tokenizer, bool(material.texts), bool(_budget(recipe)))
        score = scoring_of(run, taught, empty, tokenizer, recipe.calibration.max_length)
        if sites and not recipe.attention.kind:
            run.forecast = foretold(run, empty, costs, sites, tokenizer, material, taught)
        if recipe.output.dry_run:
            return foreseen(run, folder, empty, costs, material)
        inputs = inputs_of(recipe, folder)
        journal = _begun(run, journal_of(run, asked, out, folder, inputs), sites)
        with PeakMemory(checkpoint.device_of(recipe.device)) as memory:
            model = run.load(folder)
            source, parts = provenance(recipe, folder, model, out), list[Part]()
            before = once("quality", lambda: _measured(run, model, tokenizer, material))
            if score:
                with run.stage("measure"):
                    score.measured = once("score", lambda: score.first(model))
            rival = once("int8", lambda: int8_beside(run, model, before))
            recovery = _recovery(run, model, tokenizer, taught, material, score, before)
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
            packed = quantized(run, model, parts, warnings)
            after = costs.and_after(model, _chosen(outcome) or None)
            warnings += outcome.warnings + material.warnings
            measured, warnings = _again(run, model, before, score, recovery, packed, warnings)
            notes = _notes(outcome, material.part, run.target)
            parts = [source, *after, *measured, *rival, *notes, *parts]
            parts.append(Inputs(inputs=inputs))
        report = run.save(model, folder, out, parts, warnings, memory.bytes, packed)
        journal.remove()
        return report


def _material(run: Run, empty: Any, tokenizer: Any, taught: Lesson | None) -> Material:
    """The text of a run: what calibrates, what measures, and what a recovery trains on."""
    found, wanted = Material(), (run.recipe, empty, tokenizer, taught)
    if tokenizer:
        found = run.shared.once("text", lambda: material_of(*wanted))
    found.learned = windows_of(run, empty, tokenizer, taught, found)
    return found


def _again(
    run: Run,
    model: Any,
    before: Comparison | None,
    score: BeforeAfter | None,
    recovery: Any,
    packed: Packed | None,
    warnings: list[str],
) -> tuple[list[Part], list[str]]:
    """(the quality and the score before and now, the warnings with theirs). A recovery has measured
    what it trained, which holds unless that was rounded since."""
    measured, known = list[Part](), recovery is not None and packed is None
    if before:
        before.run = run
        warnings = before.told(model, measured, warnings, recovery.after if known else None)
    if score:
        measured.append(_scored(run, score, model, trained=known))
        warnings += [each for each in score.warnings if each not in run.warnings]
    return measured, warnings


def _begun(run: Run, journal: Journal, sites: Candidates | None) -> Journal:
    """The journal, after telling what the rest of the run will take."""
    if run.forecast and sites:
        kept = 0.0 if journal.plan is None else len(journal.done) / len(sites.roles)
        run.expect(run.forecast.going_on(kept, planned=journal.plan is not None))
    return journal


def _budget(recipe: Recipe) -> str:
    """'rank8', as it was asked for; empty where only the attention changes."""
    wanted = recipe.compression
    given = {"rank": wanted.rank, "keep": wanted.share, "energy": wanted.energy}
    given |= {"size": wanted.target_size, "parameters": wanted.target_parameters}
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
            keep=wanted.share,
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
            shared=run.shared,
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
    material: Material,
    score: BeforeAfter | None,
    before: Comparison | None,
) -> Any:
    """The training of `--recover`, which copies the model while it is dense; None without it."""
    if run.recipe.recovery.steps is None:
        return None
    from tlmtool.training.recovery import Recovery

    quality, given = before and before.quality, (taught, material.learned)
    return Recovery(run.recipe, model, tokenizer, run.bars, *given, score, quality)


def _chosen(outcome: Outcome) -> list[str]:
    return [*outcome.plan, *outcome.left_dense]


def _notes(outcome: Outcome, calibration: Calibration, target: str | None) -> list[Part]:
    """The parts of a report on the text, the allocation and the sites."""
    left = (LeftDense(site=site, reason=why) for site, why in outcome.left_dense.items())
    return [
        replace(calibration, tokens=outcome.tokens or None),
        Allocation(loss=outcome.loss, target=target),
        Sites(sites=tuple(built(Site, e) for e in outcome.sites), left_dense=tuple(left)),
    ]


def _measured(run: Run, model: Any, tokenizer: Any, material: Material) -> Comparison | None:
    if tokenizer is None:
        return None
    length = run.recipe.calibration.max_length or TEXT
    return Comparison(run, model, tokenizer, material.held, length)
