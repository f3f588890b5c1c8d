"""What `--data` of compress gives: sentences to learn from, and rows that score the model."""

import json
from typing import Any

from tlmtool.commands.learning import check_recovery
from tlmtool.commands.run import Run
from tlmtool.data.labels import classes_in, outputs_in
from tlmtool.data.lessons import Lesson, lesson, lesson_of_texts, texts_of
from tlmtool.failure import NotLoadable, Usage
from tlmtool.files.kept import LARGEST
from tlmtool.files.reading import read_text
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.pooling import pooling_of
from tlmtool.measuring.predictions import classes_of, nameless, task_fits
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.report.checks import checked_figure
from tlmtool.report.parts.score import NAMES
from tlmtool.tasks.table import LABELLED, SIMILARITY, TASKS


def lesson_of(recipe: Recipe, folder: Folder, tokenizer: Any, causal: bool) -> Lesson | None:
    """What `--data` holds for the model of a folder; without it the texts that `--recover` trains
    on, or None. `causal`: whether it is a causal language model, for which the end of a text is
    held out, and which learns on windows.

    Where nothing is trained, all rows of a single file are scored. Raises NotLoadable where the
    model has no tokenizer, and Usage for texts that would be neither trained on nor scored.
    """
    given = recipe.recovery
    check_recovery(recipe, causal)
    made = given.task is not None and TASKS[given.task].made is not None
    own = given.data is not None or made
    if not own and (causal or given.steps is None):
        return None
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which --data and --recover need")
    if not own:
        text = recipe.calibration.text
        return lesson_of_texts(None if text == "none" else text)
    config = checkpoint.described(folder)
    classes = classes_in(config)
    heads: tuple[str, ...] = ()
    if classes:
        kind = "classification" if outputs_in(config) > 1 else "regression"
        heads = tuple(dict.fromkeys([*_tuned_for(folder), kind]))
    columns = {key: getattr(recipe.training, key) for key in ("text", "pair", "label")}
    whole = given.steps is None
    about: dict[str, Any] = {"heads": heads, "classes": classes, "columns": columns}
    found = lesson(given.data, task=given.task, whole=whole, tail=causal, **about)
    if whole and not found.task and not found.why:
        raise Usage(
            f"{given.data} holds texts without scores or labels, so that nothing of it is scored: "
            "give --recover STEPS to train on them, or --calibration to weight the error by them"
        )
    return found


def scoring_of(
    run: Run, found: Lesson | None, model: Any, tokenizer: Any, length: int
) -> BeforeAfter | None:
    """What scores the model on the rows of a lesson; None where there are none, which is warned of.

    `model` may be without its weights. Raises Usage where the model does not fit the task, or where
    `--fail-if` names a score that it will not have.
    """
    recipe, named = run.recipe, checked_figure(run.recipe.output.fail_if)
    asks = named.startswith("score.") or named in NAMES
    if found is None or found.task is None:
        why = ""
        if found is not None and found.why:
            why = _why(recipe, model, found)
            run.warn(why)
        if asks:
            raise Usage(f"{why or 'nothing of --data is scored'}, so that {named} is not measured")
        return None
    task = found.task
    if asks and named not in ("score", *task.names) and not named.startswith("score."):
        raise Usage(f"the score of {recipe.recovery.data} is its {task.metric}, not {named}")
    if task.name == SIMILARITY:
        pooling_of(model)  # refused before any work
    else:
        task_fits(task, model)
        for told in nameless(task, classes_of(model), str(recipe.model)):
            run.warn(told)
    settings = {"max_length": length, "seed": recipe.seed, "progress": run.bars.of("scoring")}
    return BeforeAfter(task, found.scored, tokenizer, found.source, **settings)


def _tuned_for(folder: Folder) -> list[str]:
    """The task that tlm trained or scored the head of a checkpoint on, where its report says so."""
    try:
        report = json.loads(read_text(folder.path / "report.json", LARGEST))
        score, training = report.get("score"), report["recipe"].get("training")
        found = [each["task"] for each in (score, training) if each and each.get("task")]
        return [name for name in found if name in LABELLED]
    except (OSError, ValueError, LookupError, AttributeError, TypeError):  # it has no such report
        return []


def leaked(found: Lesson | None, texts: Any) -> list[str]:
    """A warning where texts that calibrate are also scored; none otherwise."""
    if found is None or not found.scored or not isinstance(texts, list):
        return []
    scored = set(texts_of(found.scored))
    if not (both := sum(text in scored for text in texts)):
        return []
    return [
        f"{both:,} of the {len(texts):,} calibration texts are also scored: the score after may be "
        "too high"
    ]


def _why(recipe: Recipe, model: Any, found: Lesson) -> str:
    """Why no row of `--data` is scored."""
    kind = type(model).__name__
    head = f"the head of {kind} does not fit its labels"
    if not kind.endswith("ForSequenceClassification"):
        head = f"{kind} has no classification head for labels"
    return f"{recipe.recovery.data} is not scored: {head}, and as sentence pairs {found.why}"
