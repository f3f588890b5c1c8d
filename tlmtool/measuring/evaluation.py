"""How good a model is: its loss, similarity, feature error, translation, or a labelled task.

Every task keeps a quantity per example, so that a baseline on the same tokens and masks gives a
paired interval.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tlmtool.data.glue import Task
from tlmtool.data.labelled import Example
from tlmtool.data.parallel import languages_of
from tlmtool.data.tasks import Pair
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.examples import labelled_examples, plain_examples, translations
from tlmtool.measuring.inputs import named
from tlmtool.measuring.intervals import (
    FEW,
    LEVEL,
    RESAMPLES,
    Statistic,
    paired_interval,
    said,
    with_added,
)
from tlmtool.measuring.losses import language_loss, objective_of
from tlmtool.measuring.metrics import described, scored, statistic
from tlmtool.measuring.outputs import counted, position_limit
from tlmtool.measuring.pooling import pooling_of
from tlmtool.measuring.predictions import classes_of, nameless, predictions
from tlmtool.measuring.states import features, similarity
from tlmtool.measuring.translating import Sides, translated
from tlmtool.recipe.training import LABELLED

TASKS = {
    "mlm": "nll",
    "clm": "nll",
    "similarity": "spearman",
    "features": "relative error",
    "translation": "BLEU",
}
HIGHER = ("similarity", "translation")  # is better
WHAT = {
    "mlm": "masked-language-model loss: mean NLL in nats of 15 % of each text's tokens "
    "(one at least; 80 % masked, 10 % random, 10 % kept)",
    "clm": "language-model loss: mean NLL in nats of each next token within a text",
    "seq2seq": "reconstruction loss: mean NLL in nats of a text's tokens, teacher-forced, "
    "the encoder reading the same text",
    "similarity": "Spearman correlation of scores and cosines of last hidden states, pooled ",
    "features": "relative Frobenius error of the last hidden state, over all tokens but padding",
    "translation": "corpus BLEU of what the model generates; loss: mean NLL in nats of a target's "
    "token, after the true ones; sacrebleu ",
}


def evaluate(
    task: str,
    model: nn.Module,
    tokenizer: Any,
    data: str | Path | list[str] | list[Pair] | None = None,
    *,
    against: nn.Module | None = None,
    baseline: nn.Module | None = None,
    baseline_tokenizer: Any = None,
    batch: int = 32,
    max_length: int = 128,
    seed: int = 0,
    samples: int | None = None,
    columns: dict[str, str | None] | None = None,
    pack: bool = False,
    languages: str | None = None,
    beams: int = 4,
    progress: Callable[[int, int], None] | None = None,
    read: tuple[Task | None, list[Any]] | None = None,
) -> dict[str, Any]:
    """The score of a model on texts or sentence pairs, and its paired difference from a baseline's.

    `data` is a path or the examples themselves; `against` the model whose features are the truth;
    `baseline_tokenizer`: where a baseline that translates reads other tokens;
    `columns` names those of a labelled task or of translation: {"text", "pair", "label"};
    `languages` ('en-de') and `beams` are of translation; `pack`: a language-model loss of full
    blocks, not of lines.
    `difference` is model - baseline, its 95 % interval from 2,000 seeded resamples of the examples,
    of fewer than 64 a paired t interval (`measuring.intervals`). One example has none, nor have
    fewer than four for a correlation.
    `progress` is called with (done, total) texts; `read`: what `examples_of` gave, instead of
    `data`. Raises Usage for a task that the model has no head for, Failure for a score that is not
    finite.
    """
    models, columns = [model] if baseline is None else [model, baseline], columns or {}
    form, examples = read or examples_of(
        task, data, models, against, samples, seed, columns, languages
    )
    bleu = Bleu((languages_of(languages) or (None, None))[1]) if task == "translation" else None
    everyone = models + ([] if against is None else [against])
    max_length = min([max_length, *filter(None, map(position_limit, everyone))])
    tick = counted(progress, len(examples) * len(everyone) * (2 if task in HIGHER else 1))
    settings = {"batch": batch, "max_length": max_length, "tick": tick}
    added, told = 0, []
    if form:
        told = [w for m in models for w in nameless(form, classes_of(m), named(m))]
        statistics, more, added = _of_labels(form, models, tokenizer, examples, settings)
    elif bleu:
        tokenizers = (tokenizer, baseline_tokenizer or tokenizer)
        statistics, more = _of_pairs(models, tokenizers, examples, bleu, beams, settings)
    else:
        language = {"seed": seed, "pack": pack}
        statistics, more = _of_texts(task, models, against, tokenizer, examples, settings, language)
    held = more[0].get("blocks", len(examples))
    metric = " and ".join(form.metrics) if form else TASKS[task]
    found = [
        _scored(metric, each, statistic, held) | extra
        for each, statistic, extra in zip(models, statistics, more, strict=True)
    ]
    result = {
        "task": task,
        "metric": metric,
        "better": "higher" if form or task in HIGHER else "lower",
        "what": _what(task, form, model)
        + str(more[0].get("signature", ""))
        + _pooled([each.get("pooled", "") for each in more])
        + (f"; texts read one after the other, in blocks of {max_length} tokens" if pack else ""),
        "max_length": max_length,
        "models": found[:1],
        "warnings": told,
    }
    if baseline is not None:
        result["baseline"] = _against(found, statistics, held, seed, added, metric)
    return result


def examples_of(
    task: str,
    data: Any,
    models: list[nn.Module],
    against: nn.Module | None,
    samples: int | None,
    seed: int,
    columns: dict[str, str | None],
    languages: str | None = None,
) -> tuple[Task | None, list[Any]]:
    """(the labelled task, if it is one, the examples) of `evaluate`. The models may be empty: it
    raises what a task, a model or data refuse, before any weights are loaded."""
    if task in LABELLED:
        return labelled_examples(task, data, models, columns, samples, seed)
    _check(task, models, against)
    if task == "translation":
        Bleu((languages_of(languages) or (None, None))[1])  # refused before any work
        data = translations(data, languages, columns)
    return None, plain_examples(task, data, samples, seed)


def _against(
    found: list[dict[str, Any]],
    statistics: list[Statistic],
    held: int,
    seed: int,
    added: int,
    metric: str,
) -> dict[str, Any]:
    """The baseline's score, and how far the model's lies from it; an interval, or why none."""
    difference = found[0]["score"] - found[1]["score"]
    result = found[1] | {"difference": difference, "interval": None, "level": LEVEL}
    if held < 2:
        return result | {"method": "none: one example has no spread"}
    if held < 4 and "spearman" in metric:  # without one of three, any two correlate at 1 or -1
        return result | {"method": "none: a correlation needs four examples for an interval"}
    try:
        interval = paired_interval(statistics[0], statistics[1], held, seed, added=added)
    except Failure as error:
        return result | {"method": f"none: {error}"}
    result |= {"interval": list(interval), "method": said(held, added)}
    return result | ({"resamples": RESAMPLES} if held >= FEW else {})


def _of_pairs(
    models: list[nn.Module],
    read: tuple[Any, Any],
    examples: list[Any],
    bleu: Bleu,
    beams: int,
    settings: dict[str, Any],
) -> tuple[list[Statistic], list[dict[str, Any]]]:
    """(statistic, further figures) of each model that translates, each with its tokenizer."""
    batch, max_length, tick = (settings[key] for key in ("batch", "max_length", "tick"))
    made = [
        translated(m, Sides(m, tokens, examples, max_length), bleu, beams, batch, tick)
        for m, tokens in zip(models, read, strict=False)
    ]
    return [each.statistic for each in made], [each.figures for each in made]


def _of_labels(
    form: Task, models: list[nn.Module], tokenizer: Any, examples: list[Example], settings: dict
) -> tuple[list[Statistic], list[dict[str, Any]], int]:
    """(statistic, further figures) of each model on a labelled task, and how many examples the
    statistics know beyond those given (`with_added`)."""
    labels, added = np.array([each.label for each in examples]), 0
    answers = [predictions(each, tokenizer, form, examples, **settings) for each in models]
    several = len(form.metrics) > 1
    more = [scored(form.metrics, each, labels) if several else {} for each in answers]
    if form.kind == "classification":
        labels, answers, added = with_added(labels, answers)
    return [statistic(form.metrics, each, labels) for each in answers], more, added


def _of_texts(
    task: str,
    models: list[nn.Module],
    against: nn.Module | None,
    tokenizer: Any,
    examples: list[Any],
    settings: dict[str, Any],
    language: dict[str, Any],
) -> tuple[list[Statistic], list[dict[str, Any]]]:
    """The same of similarity, features, and a language-model loss."""
    if task == "similarity":
        pools = [pooling_of(each) for each in models]
        pairs = zip(models, pools, strict=True)
        found = [similarity(m, pool, tokenizer, examples, settings) for m, pool in pairs]
        return found, [{"pooled": pool.words} for pool in pools]
    if task == "features":
        return features(models, against, tokenizer, examples, settings), [{} for _ in models]
    losses = [language_loss(m, tokenizer, examples, **settings, **language) for m in models]
    more = [{"perplexity": x.perplexity, "tokens": int(x.counts.sum())} for x in losses]
    if language["pack"]:
        more = [each | {"blocks": len(x.sums)} for each, x in zip(more, losses, strict=True)]
    return [loss.statistic for loss in losses], more


def _what(task: str, form: Task | None, model: nn.Module) -> str:
    """What the metric is, in words."""
    if form:
        return described(form.metrics)
    return WHAT["seq2seq" if task == "clm" and objective_of(model) == "seq2seq" else task]


def _pooled(each: list[str]) -> str:
    """How hidden states are pooled, where that is so: of the model, and of a baseline's folder."""
    return each[0] + (f"; the baseline's {each[-1]}" if each[-1] != each[0] else "")


def _check(task: str, models: list[nn.Module], against: nn.Module | None) -> None:
    """Raises Usage where a model cannot do the task, naming the head that it has."""
    if task not in TASKS:
        raise Usage(f"task {task!r} is unknown: choose one of {', '.join(TASKS)}")
    if (task == "features") != (against is not None):
        asks = "needs a" if against is None else "takes no"
        raise Usage(f"task {task} {asks} model to compare against")
    wanted = {"mlm": ("mlm",), "clm": ("clm", "seq2seq"), "translation": ("seq2seq",)}.get(task)
    has = {
        "mlm": "a masked-language-model head (task mlm)",
        "clm": "a causal-language-model head (task clm)",
        "seq2seq": "a sequence-to-sequence head (tasks clm and translation)",
        None: "no language-model head (tasks similarity and features)",
    }
    for each in models:
        if wanted and objective_of(each) not in wanted:
            found = f"{type(each).__name__} has {has[objective_of(each)]}"
            raise Usage(f"task {task} does not fit {named(each)}: {found}")
    if wanted and len({objective_of(each) for each in models}) > 1:
        names = " and ".join(map(named, models))
        raise Usage(f"{names} have different losses: they cannot be compared")


def _scored(metric: str, model: nn.Module, statistic: Statistic, n: int) -> dict[str, Any]:
    """{"id", "score", "n"} over all examples; raises Failure for a score that is not finite."""
    score = float(statistic(np.arange(n)[None])[0])
    if not np.isfinite(score):
        reason = "all cosines or all scores are equal, or " if metric == "spearman" else ""
        raise Failure(
            f"the {metric} of {named(model)} is {score}: {reason}its outputs are not finite"
        )
    return {"id": named(model), "score": score, "n": n}
