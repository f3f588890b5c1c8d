"""The verb evaluate: Recipe -> Report."""

from typing import Any

from tlmtool.commands import harness
from tlmtool.commands.adding import add, target_of
from tlmtool.commands.run import Run, sizes
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.counting import count_parameters
from tlmtool.measuring.evaluation import evaluate as evaluate_model
from tlmtool.measuring.examples import examples_of
from tlmtool.measuring.inputs import oddities
from tlmtool.measuring.outputs import shortened
from tlmtool.measuring.perplexity import window_of
from tlmtool.measuring.pooling import pooling_of
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.rules import TRANSLATION
from tlmtool.report.building import built
from tlmtool.report.parts.ending import Source
from tlmtool.report.parts.evaluation import Evaluation
from tlmtool.report.parts.model import Model
from tlmtool.report.report import Report
from tlmtool.tasks.table import HARNESS, PERPLEXITY, TASKS


def evaluate(recipe: Recipe) -> Report:
    """Score a model on a task; with a baseline, also how far its score lies from that one's."""
    wanted = recipe.evaluation
    folder = Folder.of(recipe.model, recipe.revision)
    folder.check()
    target = target_of(recipe, folder)
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which evaluating needs")
    names = {key: getattr(wanted, key) for key in ("against", "baseline")}
    beside = {key: Folder.of(name) for key, name in names.items() if name is not None}
    theirs = _their_tokenizer(recipe, tokenizer, beside)
    columns = {key: getattr(recipe.training, key) for key in ("text", "pair", "label")}
    foreign = wanted.task.startswith(HARNESS)
    manager = harness.manager_of(recipe) if foreign else None
    with Run(recipe) as run:
        read = None if foreign else _read(run, folder, beside, columns)
        model = run.load(folder)
        others = {key: run.load(each) for key, each in beside.items()}
        with run.stage("evaluate"):
            if foreign:
                run.bars("evaluating", 0, 1)
                found = harness.scored(recipe, manager, tokenizer, [model, *others.values()])
            else:
                found = _scored(run, model, tokenizer, theirs, columns, read, **others)
        found["models"][0] |= sizes(folder, count_parameters(model)) | {"sums": folder.marks}
        for key in beside.keys() & {"baseline"}:
            found[key] |= sizes(beside[key], count_parameters(others[key]))
            found[key] |= {"sums": beside[key].marks}
        own = harness.DATA if foreign else TASKS[wanted.task].source
        source = (foreign and wanted.data) or own or wanted.data or "the text that comes with tlm"
        told = found.pop("warnings")
        for each in (model, *others.values()):
            told += oddities(each, tokenizer)
            if wanted.task != PERPLEXITY and not foreign:
                told += shortened(each, wanted.max_length)
        place = None if target is None else str(target)
        model_part = Model(id=recipe.model, out=place)
        report = run.report([model_part, Source(data=source), built(Evaluation, found)], told)
    if target:
        add(target, report)
    return report


def _scored(
    run: Run,
    model: Any,
    tokenizer: Any,
    theirs: Any,
    columns: dict[str, str | None],
    read: Any,
    **others: Any,
) -> dict[str, Any]:
    """What a task of ours finds."""
    wanted, training = run.recipe.evaluation, run.recipe.training
    return evaluate_model(
        wanted.task,
        model,
        tokenizer,
        wanted.data,
        baseline_tokenizer=theirs,
        batch=wanted.batch,
        max_length=wanted.max_length,
        seed=run.recipe.seed,
        samples=wanted.samples,
        pack=training.pack,
        eos=training.eos,
        columns=columns,
        read=read,
        languages=training.languages,
        beams=training.beams,
        window=wanted.window,
        stride=wanted.stride,
        tokens=wanted.tokens,
        progress=run.bars.of("evaluating"),
        **others,
    )


def _read(
    run: Run, folder: Folder, beside: dict[str, Folder], columns: dict[str, str | None]
) -> Any:
    """Read the examples, and check that they fit the models, before any weights are loaded."""
    recipe, wanted = run.recipe, run.recipe.evaluation
    empty = run.empty(folder)
    empty.name_or_path = recipe.model
    others = {}
    for key, each in beside.items():
        others[key] = run.empty(each)
        others[key].name_or_path = each.asked
    models = [empty, *(each for key, each in others.items() if key == "baseline")]
    for each in models if wanted.task == "similarity" else ():
        pooling_of(each)  # refused before any work
    for each in models if wanted.task == PERPLEXITY else ():
        window_of(each, wanted.window)
    training = recipe.training
    given = (wanted.samples, recipe.seed, columns, training.languages, training.verbatim)
    return examples_of(wanted.task, wanted.data, models, others.get("against"), *given)


def _their_tokenizer(recipe: Recipe, tokenizer: Any, beside: dict[str, Folder]) -> Any:
    """The baseline's, where it reads other tokens; losses of tokens and features can then not be
    compared, which raises Usage."""
    for folder in (beside[key] for key in ("baseline", "against") if key in beside):
        own = checkpoint.load_tokenizer(folder)
        if own is not None and own.get_vocab() != tokenizer.get_vocab():
            if recipe.evaluation.task == TRANSLATION:
                return own
            raise Usage(
                f"{folder.asked} reads other tokens than {recipe.model}: they cannot be compared"
            )
    return None
