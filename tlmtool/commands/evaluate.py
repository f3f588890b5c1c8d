"""The verb evaluate: Recipe -> Report."""

from pathlib import Path
from typing import Any

from tlmtool.commands.run import Run
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.evaluation import evaluate as evaluate_model
from tlmtool.measuring.examples import examples_of
from tlmtool.measuring.inputs import oddities
from tlmtool.measuring.outputs import shortened
from tlmtool.measuring.pooling import pooling_of
from tlmtool.models import checkpoint
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.rules import TRANSLATION
from tlmtool.report.report import Report


def evaluate(recipe: Recipe) -> Report:
    """The score of a model on a task, and its paired difference from a baseline's."""
    wanted = recipe.evaluation
    folder = checkpoint.resolve(recipe.model, recipe.revision)
    checkpoint.read_config(folder)
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which evaluating needs")
    theirs = _their_tokenizer(recipe, tokenizer)
    names = {key: getattr(wanted, key) for key in ("against", "baseline")}
    names = {key: name for key, name in names.items() if name is not None}
    columns = {key: getattr(recipe.training, key) for key in ("text", "pair", "label")}
    with Run(recipe) as run:
        read = _read(run, folder, names, columns)
        model = run.load(recipe.model)
        others = {key: run.load(name) for key, name in names.items()}
        with run.stage("evaluate"):
            found = evaluate_model(
                wanted.task,
                model,
                tokenizer,
                wanted.data,
                baseline_tokenizer=theirs,
                batch=wanted.batch,
                max_length=wanted.max_length,
                seed=recipe.seed,
                samples=wanted.samples,
                pack=recipe.training.pack,
                columns=columns,
                read=read,
                languages=recipe.training.languages,
                beams=recipe.training.beams,
                progress=run.bars.of("evaluating"),
                **others,
            )
        given = "a task that tlm generates by a grammar" if wanted.task == "grammar" else None
        source = given or wanted.data or "the text that comes with tlm"
        told = found.pop("warnings")
        for each in (model, *others.values()):
            told += shortened(each, wanted.max_length) + oddities(each, tokenizer)
        data = {"model": {"id": recipe.model}, "data": source, "warnings": told}
        return run.report(data | found)


def _read(run: Run, folder: Path, names: dict[str, str], columns: dict[str, str | None]) -> Any:
    """The examples, read and found to fit the models before any weights are loaded."""
    recipe, wanted = run.recipe, run.recipe.evaluation
    empty = run.empty(folder)
    empty.name_or_path = recipe.model
    others = {}
    for key, name in names.items():
        others[key] = run.empty(checkpoint.resolve(name))
        others[key].name_or_path = name
    models = [empty, *(each for key, each in others.items() if key == "baseline")]
    for each in models if wanted.task == "similarity" else ():
        pooling_of(each)  # refused before any work
    given = (wanted.samples, recipe.seed, columns, recipe.training.languages)
    return examples_of(wanted.task, wanted.data, models, others.get("against"), *given)


def _their_tokenizer(recipe: Recipe, tokenizer: Any) -> Any:
    """The baseline's, where it reads other tokens; losses of tokens and features can then not be
    compared, which raises Usage."""
    wanted = recipe.evaluation
    for name in filter(None, (wanted.baseline, wanted.against)):
        own = checkpoint.load_tokenizer(checkpoint.resolve(name))
        if own is not None and own.get_vocab() != tokenizer.get_vocab():
            if wanted.task == TRANSLATION:
                return own
            raise Usage(f"{name} reads other tokens than {recipe.model}: they cannot be compared")
    return None
