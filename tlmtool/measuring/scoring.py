"""What each kind of task measures: a function a kind, which gives a quantity per example."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from tlmtool.data.batching import cut
from tlmtool.data.parallel import languages_of
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.inputs import name_of
from tlmtool.measuring.intervals import Statistic, with_added
from tlmtool.measuring.losses import described, exponential, exponentials, language_loss
from tlmtool.measuring.marks import marked
from tlmtool.measuring.metrics import scored, statistic, undefined
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.perplexity import beyond, perplexity, rough
from tlmtool.measuring.pooling import pooling_of
from tlmtool.measuring.predictions import classes_of, nameless, predictions
from tlmtool.measuring.states import features, similarity
from tlmtool.measuring.translating import Sides, translated
from tlmtool.tasks.table import Task


@dataclass
class Asked:
    """What is to be measured. `models`: the model and perhaps a baseline; `tokenizers`: one for
    each; `settings`: batch, max_length and tick, as the functions that read texts take them."""

    task: Task
    models: list[nn.Module]
    against: nn.Module | None
    tokenizers: list[Any]
    examples: list[Any]
    settings: dict[str, Any]
    seed: int
    pack: bool
    languages: str | None
    beams: int
    stride: int | None = None
    eos: bool = False


@dataclass
class Found:
    """What was measured of each model. `statistics`: the score of resampled examples; `figures`:
    what is reported beside it; `count`: of examples; `added`: examples that the statistics know
    beyond those (`with_added`); `what`: the score in words; `score`: makes the score of what the
    statistics give; `shared`: what is reported of all models together; `answers`: of each model,
    to labels; `cut`: whether texts were longer than what is read of them."""

    statistics: list[Statistic]
    figures: list[dict[str, Any]]
    count: int
    what: str
    added: int = 0
    warnings: list[str] = field(default_factory=list)
    score: Callable[[float], float | None] = float
    shared: dict[str, Any] = field(default_factory=dict)
    answers: list[np.ndarray] = field(default_factory=list)
    cut: bool = False


def of_labels(asked: Asked) -> Found:
    """Classes or figures that models predict, against the labels."""
    task, examples, tokenizer = asked.task, asked.examples, asked.tokenizers[0]
    told = [w for m in asked.models for w in nameless(task, classes_of(m), name_of(m))]
    seconds = None if examples[0].second is None else [each.second for each in examples]
    cuts = shorter(asked, [each.first for each in examples], seconds)
    told += cuts
    labels = np.array([each.label for each in examples])
    answers = [predictions(m, tokenizer, task, examples, **asked.settings) for m in asked.models]
    whole = [scored(task.metrics, each, labels, task.scored_beside) for each in answers]
    for model, each in zip(asked.models, whole, strict=True):
        told += undefined(each, len(examples), f"of {name_of(model)}")
    figures = [{name: each[name] for name in task.figures} for each in whole]
    statistics, added = _of_answers(task, labels, answers)
    found = Found(statistics, figures, len(examples), task.what, added, told, answers=answers)
    return replace(found, cut=bool(cuts))


def _of_answers(
    task: Task, labels: np.ndarray, answers: list[np.ndarray]
) -> tuple[list[Statistic], int]:
    """(the score of resampled answers of each model, how many examples were added)"""
    added = 0
    if task.kind == "classification":
        labels, answers, added = with_added(labels, answers)
    return [statistic(task.metrics, each, labels) for each in answers], added


def together(task: Task, examples: list[Any], first: Found, second: Found) -> Found:
    """What was measured of two models, each alone, as if they had been measured side by side."""
    both = {"figures": first.figures + second.figures, "warnings": first.warnings}
    if not first.answers:
        return replace(first, statistics=first.statistics + second.statistics, **both)
    labels, answers = np.array([each.label for each in examples]), first.answers + second.answers
    statistics, added = _of_answers(task, labels, answers)
    return replace(first, statistics=statistics, added=added, answers=answers, **both)


def of_texts(asked: Asked) -> Found:
    """The language-model loss, of texts or of blocks of them."""
    settings = asked.settings | {"seed": asked.seed, "pack": asked.pack, "eos": asked.eos}
    tokenizer, texts = asked.tokenizers[0], asked.examples
    losses = [language_loss(each, tokenizer, texts, **settings) for each in asked.models]
    figures = [{"perplexity": x.perplexity, "tokens": int(x.counts.sum())} for x in losses]
    count, what = len(texts), described(losses[0].objective)
    told = [] if asked.pack else shorter(asked, texts)
    if asked.pack:
        figures = [each | {"blocks": len(x.sums)} for each, x in zip(figures, losses, strict=True)]
        count = len(losses[0].sums)
        what += "; texts, each ended by the end token," if asked.eos else "; the text as it stands,"
        what += f" in blocks of {settings['max_length']} tokens"
    statistics = [loss.statistic for loss in losses]
    return Found(statistics, figures, count, what, warnings=told)


def shorter(asked: Asked, texts: list[str], seconds: list[str] | None = None) -> list[str]:
    """A warning that names how many texts are cut, and the flag that reads more of them."""
    length = asked.settings["max_length"]
    found = cut(asked.tokenizers[0], texts, length, "texts", seconds)
    longest = min(filter(None, map(position_limit, asked.models)), default=length + 1)
    mends = ["--max-length N reads more of each"] if longest > length else []
    if asked.task.name == "clm":
        mends.append("--task perplexity reads the text whole")
    return [f"{each}: {', '.join(mends)}" if mends else each for each in found]


def of_windows(asked: Asked) -> Found:
    """The perplexity of a text, whose tokens are the examples, in windows."""
    window, batch, tick = (asked.settings[key] for key in ("max_length", "batch", "tick"))
    given: dict[str, Any] = {"window": window, "stride": asked.stride, "batch": batch}
    ids, found = asked.examples, []
    for each in asked.models:
        found.append(perplexity(each, ids, **given, tick=tick))
        if tick:
            tick(1)  # the first token, which is not predicted
    figures = [
        {"loss": x.mean, "perplexity": x.perplexity, "tokens": x.tokens}
        | {"bounds": exponentials(x.interval(asked.seed))}
        for x in found
    ]
    shared = {"window": window, "stride": found[0].stride, "begin_token": found[0].begin}
    told = [w for each in asked.models for w in beyond(each, window)] + rough(found[0].tokens)
    statistics = [x.statistic for x in found]
    count = len(found[0].sums)
    return Found(statistics, figures, count, asked.task.what, 0, told, exponential, shared)


def of_sentences(asked: Asked) -> Found:
    """The similarity of sentences, by their pooled hidden states."""
    pools = [pooling_of(each) for each in asked.models]
    pairs, tokenizer = asked.examples, asked.tokenizers[0]
    statistics = [
        similarity(model, pool, tokenizer, pairs, asked.settings)
        for model, pool in zip(asked.models, pools, strict=True)
    ]
    what = asked.task.what + pools[0].words
    if pools[-1].words != pools[0].words:
        what += f"; the baseline's {pools[-1].words}"
    figures = [{"pooled": pool.words} for pool in pools]
    told = shorter(asked, pools[0].texts([text for pair in pairs for text in pair[:2]]))
    return Found(statistics, figures, len(pairs), what, warnings=told, cut=bool(told))


def of_states(asked: Asked) -> Found:
    """The error of hidden states against those of another model."""
    given = (asked.tokenizers[0], asked.examples, asked.settings)
    statistics = features(asked.models, asked.against, *given)
    figures, told = [{} for _ in statistics], shorter(asked, asked.examples)
    count, what = len(asked.examples), asked.task.what
    return Found(statistics, figures, count, what, warnings=told, cut=bool(told))


def of_translations(asked: Asked) -> Found:
    """BLEU of what the models generate, each with its own tokenizer."""
    bleu = bleu_of(asked.languages)
    batch, max_length, tick = (asked.settings[key] for key in ("batch", "max_length", "tick"))
    pairs = asked.examples
    sides = [
        Sides(model, tokens, pairs, max_length)
        for model, tokens in zip(asked.models, asked.tokenizers, strict=True)
    ]
    made = [
        translated(model, each, bleu, asked.beams, batch, tick)
        for model, each in zip(asked.models, sides, strict=True)
    ]
    figures, told = [each.figures for each in made], sides[0].cut()
    what = asked.task.what + figures[0]["signature"]
    statistics = [each.statistic for each in made]
    return Found(statistics, figures, len(pairs), what, warnings=told, cut=bool(told))


def bleu_of(languages: str | None) -> Bleu:
    """BLEU in the target language of 'en-de'; raises MissingDependency before any work."""
    return Bleu((languages_of(languages) or (None, None))[1])


def found_of(asked: Asked) -> Found:
    """What a task measures, with a mark of its examples in the figures of each model."""
    found = KINDS[asked.task.kind](asked)
    for of, figures in zip(found.statistics, found.figures, strict=True):
        how = _how(asked, found, figures)
        figures["examples"] = marked(of, found.count, asked.task.name, asked.examples, *how)
    return found


def _how(asked: Asked, found: Found, figures: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same, beside the examples, for two scores to be comparable."""
    kind, length = asked.task.kind, asked.settings["max_length"]
    if kind not in ("language", "perplexity"):
        against = (name_of(asked.against),) if kind == "features" else ()
        return (*against, length) if found.cut else against
    seed = asked.seed if asked.task.name == "mlm" else None  # it chooses what is masked
    stride = found.shared.get("stride")
    return length, stride, asked.pack, asked.eos, figures["tokens"], seed


KINDS: dict[str, Callable[[Asked], Found]] = {
    "classification": of_labels,
    "regression": of_labels,
    "language": of_texts,
    "perplexity": of_windows,
    "similarity": of_sentences,
    "features": of_states,
    "translation": of_translations,
}
