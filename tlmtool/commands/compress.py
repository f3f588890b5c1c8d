"""The verb compress: Recipe -> Report."""

from dataclasses import replace
from typing import Any

from tlmtool.commands.calibrating import TEXT, Material, material_of, resolved, shortened
from tlmtool.commands.checking import checked, tokenizer_of
from tlmtool.commands.comparing import Comparison, compared, first_score, measured_before
from tlmtool.commands.converting import converted, longest_of
from tlmtool.commands.costs import Costs
from tlmtool.commands.finishing import finished
from tlmtool.commands.forecasting import foreseen, foretold
from tlmtool.commands.learning import windows_of
from tlmtool.commands.provenance import provenance
from tlmtool.commands.quantizing import check as check_bits
from tlmtool.commands.quantizing import int8_beside, quantized
from tlmtool.commands.resuming import ended_compression, inputs_of, journal_of
from tlmtool.commands.run import Run, out_folder, place_of
from tlmtool.commands.scoring import leaked, lesson_of, scoring_of
from tlmtool.commands.searching import searched
from tlmtool.commands.several import several
from tlmtool.commands.targets import aimed, settled
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
from tlmtool.recipe.building import Recipe
from tlmtool.report.building import built
from tlmtool.report.layout import Part
from tlmtool.report.parts.calibration import Allocation, Calibration
from tlmtool.report.parts.ending import Inputs
from tlmtool.report.parts.sites import LeftDense, Site, Sites
from tlmtool.report.report import Report


def compress(recipe: Recipe) -> Report:
    """Factorize a checkpoint, replace its attention, or both.

    It is measured before and after, and written with its report. Several budgets give a checkpoint
    each, and a report of them all."""
    if isinstance(recipe.compression.keep, tuple):
        return several(recipe, _compress)
    if recipe.compression.max_loss_increase is not None and not recipe.attention.kind:
        return searched(recipe, _compress)
    return _compress(recipe)


def _compress(
    recipe: Recipe,
    shared: Shared | None = None,
    trial: bool = False,
    parts: tuple[Part, ...] = (),
) -> Report:
    """The same for one budget. `shared`: what other budgets of the same model have measured. A
    `trial` is not written. `parts` are added to the report."""
    asked, suffix = recipe, "-".join(filter(None, (recipe.attention.kind, _budget(recipe))))
    if not trial and (found := ended_compression(recipe, place_of(recipe, suffix))):
        return found
    out = place_of(recipe, suffix) if trial else out_folder(recipe, suffix)
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe, shared) as run:
        check_bits(run)
        once = run.shared.once
        empty = run.empty(folder)
        recipe = aimed(run, resolved(run.recipe, empty), empty)
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
        journal = None if trial else journal_of(run, asked, out, folder, inputs)
        _begin(run, journal, sites)
        with PeakMemory(checkpoint.device_of(recipe.device)) as memory:
            model = run.load(folder)
            source, more = provenance(recipe, folder, model, out), [*parts]
            before = once("quality", lambda: measured_before(run, model, tokenizer, material))
            if score:
                score.measured = once("score", lambda: first_score(run, score, model))
            rival = once("int8", lambda: int8_beside(run, model, before))
            recovery = _recovery(run, model, tokenizer, taught, material, score, before)
            learnt = recovery.sentences if recovery else []
            warnings = shortened(recipe, model, tokenizer, material, learnt)
            warnings += leaked(taught, material.texts)
            if recipe.attention.kind:
                wanted = (tokenizer, material.texts, before, warnings)
                model, layers = converted(run, model, *wanted)
                more.append(layers)
            outcome = _compressed(run, model, tokenizer, material.texts, journal)
            more += finished(run, model, recovery, empty, sites)
            packed = quantized(run, model, more, warnings)
            after = costs.and_after(model, _chosen(outcome) or None)
            warnings += outcome.warnings + material.warnings
            trained = None if packed else recovery
            measured, warnings = compared(run, model, before, score, trained, warnings)
            notes = _notes(outcome, material.part, run.target)
            more = [source, *after, *measured, *rival, *notes, *more, Inputs(inputs=inputs)]
        if journal is None:
            return run.report(more, warnings, memory.bytes)
        report = run.save(model, folder, out, more, warnings, memory.bytes, packed)
        journal.remove()
        return report


def _material(run: Run, empty: Any, tokenizer: Any, taught: Lesson | None) -> Material:
    """The text of a run: what calibrates, what measures, and what a recovery trains on."""
    found, wanted = Material(), (run.recipe, empty, tokenizer, taught)
    if tokenizer:
        found = run.shared.once("text", lambda: material_of(*wanted))
    found.learned = windows_of(run, empty, tokenizer, taught, found)
    return found


def _begin(run: Run, journal: Journal | None, sites: Candidates | None) -> None:
    """Tell what the rest of the run will take."""
    if run.forecast and sites:
        planned = journal is not None and journal.plan is not None
        done = len(journal.done) / len(sites.roles) if journal and planned else 0.0
        run.expect(run.forecast.going_on(done, planned))


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
            bits=recipe.quantization.bits,
            limit=run.fits,
            dry_run=recipe.output.dry_run,
            progress=run.bars,
            journal=journal,
            shared=run.shared,
        )
    run.seconds |= outcome.seconds
    settled(run, outcome.keep)
    if tokenizer is None and not recipe.output.dry_run:
        outcome.warnings.append(
            f"{recipe.model} has no tokenizer: no text weighs the error, and no loss is measured"
        )
    return outcome


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
