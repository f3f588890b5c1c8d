"""Tasks of lm-evaluation-harness for `evaluate`: its prompts and its metrics, on our models."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import version
from math import isclose, isfinite
from typing import Any

import numpy as np

from tlmtool.failure import Failure, MissingDependency, Usage, first_line
from tlmtool.measuring.inputs import name_of
from tlmtool.measuring.intervals import FEW, LEVEL, RESAMPLES, paired_interval, said
from tlmtool.measuring.outputs import position_limit
from tlmtool.recipe.building import Recipe
from tlmtool.tasks.table import HARNESS

LEAST = 1e-6  # apart from their mean a score is more than a mean, and gets no interval
DATA = "lm-evaluation-harness"  # what a report names where `--data` gives no tasks of one's own


def manager_of(recipe: Recipe) -> Any:
    """What makes the tasks. Raises MissingDependency without the library, Usage for a task that it
    does not know."""
    manager, name = _manager(recipe), _name(recipe)
    if name not in manager.all_tasks:
        near = get_close_matches(name, manager.all_tasks, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise Usage(
            f"lm-evaluation-harness has no task {name}{hint} `lm_eval ls tasks` lists all; --data "
            "names a folder with tasks of your own"
        )
    return manager


def scored(recipe: Recipe, manager: Any, tokenizer: Any, models: list[Any]) -> dict[str, Any]:
    """The score of a model, or of a model and its baseline, as the part of a report. `manager` is
    what `manager_of` gave.

    The score is the first metric of the task; the others stand beside it. The interval of a
    difference is paired, over the examples, where the score is their mean. Raises Usage for a
    model that does not predict the next token, Failure where the library fails.
    """
    found = [_asked(recipe, manager, tokenizer, model) for model in models]
    result, name = found[0], _name(recipe)
    metric, *others = [key for key in result["results"][name] if _is_metric(result, name, key)]
    better = result.get("higher_is_better", {}).get(name, {}).get(metric.split(",")[0], True)
    shots = result.get("n-shot", {}).get(name, 0)
    words = f"{metric.split(',')[0]} of {name}, {shots} examples in the prompt"
    scores = []
    for model, each in zip(models, found, strict=True):
        values = each["results"][name]
        more = {key.split(",")[0]: float(values[key]) for key in others}
        own = {"id": name_of(model), "score": float(values[metric]), "n": _count(each, name)}
        scores.append(own | more)
    limits = filter(None, map(position_limit, models))
    part = {
        "task": recipe.evaluation.task,
        "metric": metric.split(",")[0],
        "better": "higher" if better else "lower",
        "what": f"{words}, as lm-evaluation-harness {version('lm_eval')} measures it",
        "max_length": min([2048, *limits]),
        "models": scores[:1],
        "warnings": [],
    }
    return part | ({"baseline": _paired(found, scores, name, metric, recipe)} if scores[1:] else {})


def _name(recipe: Recipe) -> str:
    return str(recipe.evaluation.task).removeprefix(HARNESS)


def _manager(recipe: Recipe) -> Any:
    """The tasks of `--data` where the task is one of them, which is fast, or all there are."""
    try:
        from lm_eval.models.huggingface import HFLM  # noqa: F401, which needs more than lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingDependency(
            f"--task {recipe.evaluation.task} needs lm-evaluation-harness ({first_line(error)}): "
            "pip install 'tlmtool[lm-eval]'"
        ) from None
    with _quiet():
        if folder := recipe.evaluation.data:
            own = TaskManager(include_path=folder, include_defaults=False)
            if _name(recipe) in own.all_tasks:
                return own
        return TaskManager(include_path=folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the library logs errors only."""
    theirs = logging.getLogger("lm_eval")
    before = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(before)


def _asked(recipe: Recipe, manager: Any, tokenizer: Any, model: Any) -> dict[str, Any]:
    """What the library finds of one model."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    if not model.can_generate():
        raise Usage(f"{name_of(model)} does not predict the next token, which {DATA} asks of it")
    backend = "seq2seq" if model.config.is_encoder_decoder else "causal"
    try:
        with _quiet():
            held = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                backend=backend,
                batch_size=recipe.evaluation.batch,
                max_length=min([2048, *filter(None, [position_limit(model)])]),
            )
            tasks = manager.load([_name(recipe)])
            for task in tasks["tasks"].values():
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=recipe.seed)
            found = evaluate(
                held, tasks, limit=recipe.evaluation.samples, bootstrap_iters=0, verbosity="ERROR"
            )
    except (Failure, KeyboardInterrupt):
        raise
    except Exception as error:
        raise Failure(f"{DATA} failed on {_name(recipe)}: {first_line(error)}") from error
    return dict(found)


def _is_metric(result: dict[str, Any], name: str, key: str) -> bool:
    value = result["results"][name][key]
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return number and "," in key and "_stderr" not in key


def _count(result: dict[str, Any], name: str) -> int:
    """How many examples were scored; of a group those of all its tasks."""
    samples = result.get("samples", {})
    several = [samples[name]] if name in samples else samples.values()
    return sum(len(each) for each in several)


def _paired(
    found: list[dict[str, Any]],
    scores: list[dict[str, Any]],
    name: str,
    metric: str,
    recipe: Recipe,
) -> dict[str, Any]:
    """The baseline and the difference, with an interval where the score is a mean of examples."""
    key = metric.split(",")[0]
    result = {"difference": scores[0]["score"] - scores[1]["score"], "interval": None}
    result |= scores[1] | {"level": LEVEL}
    each = [_by_example(one, name, key) for one in found]
    for held, score in zip(each, scores, strict=True):
        if not len(held) or not isclose(float(np.mean(held)), score["score"], abs_tol=LEAST):
            return result | {"method": f"none: {key} is no mean over the examples"}
    if (n := len(each[0])) < FEW:
        return result | {"method": f"none: it takes {FEW} examples, these are {n}"}
    means = [lambda index, held=held: held[index].mean(axis=-1) for held in each]
    try:
        interval = paired_interval(*means, n, recipe.seed)
    except Failure as error:
        return result | {"method": f"none: {error}"}
    return result | {"interval": list(interval), "method": said(n), "resamples": RESAMPLES}


def _by_example(result: dict[str, Any], name: str, key: str) -> np.ndarray:
    """A metric of each example; empty where it has no number for each."""
    values = [sample.get(key) for sample in result.get("samples", {}).get(name, ())]
    plain = all(isinstance(value, int | float) for value in values)
    return np.array(values if plain else [], dtype=float)
