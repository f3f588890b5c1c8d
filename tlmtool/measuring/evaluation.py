"""How good a model is: language-model loss, sentence similarity, feature error, a labelled task.

Every task keeps a quantity per example, so that a baseline on the same tokens and masks gives a
paired bootstrap interval.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tlmtool.data import labelled
from tlmtool.data.glue import Task
from tlmtool.data.labelled import Example
from tlmtool.data.tasks import Pair, choose, sentence_pairs, texts
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.losses import language_loss, objective_of
from tlmtool.measuring.metrics import Statistic, described, scored, statistic
from tlmtool.measuring.outputs import counted, named, position_limit
from tlmtool.measuring.predictions import classes_of, predictions, task_fits
from tlmtool.measuring.states import features, similarity
from tlmtool.schema_training import LABELLED

RESAMPLES, LEVEL = 2000, 0.95
AT_ONCE = 2**21  # examples resampled at once: bounds the memory of the bootstrap

TASKS = {"mlm": "nll", "clm": "nll", "similarity": "spearman", "features": "relative error"}
WHAT = {
    "mlm": "masked-language-model loss: mean NLL in nats of 15 % of each text's tokens "
    "(one at least; 80 % masked, 10 % random, 10 % kept)",
    "clm": "language-model loss: mean NLL in nats of each next token within a text",
    "seq2seq": "reconstruction loss: mean NLL in nats of a text's tokens, teacher-forced, "
    "the encoder reading the same text",
    "similarity": "Spearman correlation of scores and cosines of mean-pooled last hidden states",
    "features": "relative Frobenius error of the last hidden state, over all tokens but padding",
}


def evaluate(
    task: str,
    model: nn.Module,
    tokenizer: Any,
    data: str | Path | list[str] | list[Pair] | None = None,
    *,
    against: nn.Module | None = None,
    baseline: nn.Module | None = None,
    batch: int = 32,
    max_length: int = 128,
    seed: int = 0,
    samples: int | None = None,
    columns: dict[str, str | None] | None = None,
    pack: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The score of a model on texts or sentence pairs, and its paired difference from a baseline's.

    `data` is a path or the examples themselves; `against` the model whose features are the truth;
    `columns` names those of a labelled task: {"text", "pair", "label"}; `pack`: a language-model
    loss of full blocks, not of lines.
    `difference` is model - baseline, its 95 % interval from 2,000 seeded resamples of the examples.
    `progress` is called with (done, total) texts. Raises Usage for a task that the model has no
    head for, Failure for a score that is not finite.
    """
    models = [model] if baseline is None else [model, baseline]
    form: Task | None = None
    if task in LABELLED:
        form, examples = _labelled(task, data, models, columns or {}, samples, seed)
    else:
        _check(task, models, against)
        examples = _examples(task, data, samples, seed)
    everyone = models + ([] if against is None else [against])
    max_length = min([max_length, *filter(None, map(position_limit, everyone))])
    tick = counted(progress, len(examples) * len(everyone) * (2 if task == "similarity" else 1))
    settings = {"batch": batch, "max_length": max_length, "tick": tick}
    more: list[dict[str, Any]] = [{} for _ in models]
    held = len(examples)
    if form:
        labels = np.array([each.label for each in examples])
        said = [predictions(each, tokenizer, form, examples, **settings) for each in models]
        statistics = [statistic(form.metrics, each, labels) for each in said]
        if len(form.metrics) > 1:
            more = [scored(form.metrics, each, labels) for each in said]
    elif task == "similarity":
        statistics = [similarity(each, tokenizer, examples, settings) for each in models]
    elif task == "features":
        statistics = features(models, against, tokenizer, examples, settings)
    else:
        settings |= {"seed": seed, "pack": pack}
        losses = [language_loss(m, tokenizer, examples, **settings) for m in models]
        held = len(losses[0].sums)
        statistics = [loss.statistic for loss in losses]
        more = [{"perplexity": x.perplexity, "tokens": int(x.counts.sum())} for x in losses]
    metric = " and ".join(form.metrics) if form else TASKS[task]
    found = [
        _scored(metric, each, statistic, held) | extra
        for each, statistic, extra in zip(models, statistics, more, strict=True)
    ]
    result = {
        "task": task,
        "metric": metric,
        "better": "higher" if form or task == "similarity" else "lower",
        "what": _what(task, form, model),
        "max_length": max_length,
        "models": found[:1],
    }
    if baseline is not None:
        interval = paired_interval(statistics[0], statistics[1], held, seed)
        result["baseline"] = found[1] | {
            "difference": found[0]["score"] - found[1]["score"],
            "interval": list(interval),
            "level": LEVEL,
            "resamples": RESAMPLES,
        }
    return result


def _what(task: str, form: Task | None, model: nn.Module) -> str:
    """What the metric is, in words."""
    if form:
        return described(form.metrics)
    return WHAT["seq2seq" if task == "clm" and objective_of(model) == "seq2seq" else task]


def paired_interval(
    first: Statistic,
    second: Statistic,
    n: int,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of first - second on the same resampled examples; seeded."""
    draw = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // n)
    differences = []
    for start in range(0, resamples, rows):
        index = draw.integers(0, n, (min(rows, resamples - start), n))
        differences.append(first(index) - second(index))
    tail, finite = (1 - level) / 2, np.concatenate(differences)
    finite = finite[np.isfinite(finite)]  # a resample of equal pairs has no correlation
    if not len(finite):
        raise Failure(
            f"no interval can be given: each of {resamples} resamples of {n} examples is degenerate"
        )
    return float(np.quantile(finite, tail)), float(np.quantile(finite, 1 - tail))


def _check(task: str, models: list[nn.Module], against: nn.Module | None) -> None:
    """Raises Usage where a model cannot do the task, naming the head that it has."""
    if task not in TASKS:
        raise Usage(f"task {task!r} is unknown: choose one of {', '.join(TASKS)}")
    if (task == "features") != (against is not None):
        asks = "needs a" if against is None else "takes no"
        raise Usage(f"task {task} {asks} model to compare against")
    wanted = {"mlm": ("mlm",), "clm": ("clm", "seq2seq")}.get(task)
    has = {
        "mlm": "a masked-language-model head (task mlm)",
        "clm": "a causal-language-model head (task clm)",
        "seq2seq": "a sequence-to-sequence head (task clm)",
        None: "no language-model head (tasks similarity and features)",
    }
    for each in models:
        if wanted and objective_of(each) not in wanted:
            found = f"{type(each).__name__} has {has[objective_of(each)]}"
            raise Usage(f"task {task} does not fit {named(each)}: {found}")
    if wanted and len({objective_of(each) for each in models}) > 1:
        names = " and ".join(map(named, models))
        raise Usage(f"{names} have different losses: they cannot be compared")


def _labelled(
    task: str,
    data: Any,
    models: list[nn.Module],
    columns: dict[str, str | None],
    samples: int | None,
    seed: int,
) -> tuple[Task, list[Example]]:
    """The task, with the classes that the first model knows, and the examples of it."""
    classes = classes_of(models[0]) if task == "classification" else ()
    form, found = labelled.examples(task, data, classes=classes, **columns)
    for each in models:
        task_fits(form, each)
    return form, choose(found, samples, seed)


def _examples(task: str, data: Any, samples: int | None, seed: int) -> list[Any]:
    """The texts or pairs to evaluate on, a seeded choice where there are more than `samples`."""
    if task == "similarity":
        if data is None:
            raise Usage(
                "task similarity needs data: a csv or tsv file of sentence1, sentence2, score"
            )
        return choose(sentence_pairs(data) if isinstance(data, str | Path) else data, samples, seed)
    if data is None or isinstance(data, str | Path):
        return texts(data, samples, seed)
    if not data:
        raise Usage(f"task {task} was given no texts")
    return choose(data, samples, seed)


def _scored(metric: str, model: nn.Module, statistic: Statistic, n: int) -> dict[str, Any]:
    """{"id", "score", "n"} over all examples; raises Failure for a score that is not finite."""
    score = float(statistic(np.arange(n)[None])[0])
    if not np.isfinite(score):
        reason = "all cosines or all scores are equal, or " if metric == "spearman" else ""
        raise Failure(
            f"the {metric} of {named(model)} is {score}: {reason}its outputs are not finite"
        )
    return {"id": named(model), "score": score, "n": n}
