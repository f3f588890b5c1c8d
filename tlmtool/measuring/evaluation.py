"""How good a model is: its loss, similarity, feature error, translation, or a labelled task.

Every task keeps a quantity per example, so that a baseline on the same tokens and masks gives a
paired interval.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tlmtool.data.batching import joined_ids
from tlmtool.data.labelled import Pair
from tlmtool.failure import Failure
from tlmtool.measuring.examples import examples_of
from tlmtool.measuring.inputs import name_of
from tlmtool.measuring.intervals import (
    FEW,
    LEVEL,
    RESAMPLES,
    Statistic,
    paired_interval,
    said,
)
from tlmtool.measuring.losses import exponential, exponentials
from tlmtool.measuring.outputs import counted, position_limit
from tlmtool.measuring.perplexity import window_of
from tlmtool.measuring.scoring import Asked, Found, found_of
from tlmtool.tasks.metrics import METRICS
from tlmtool.tasks.table import Task

PASSES = {"similarity": 2, "translation": 2}  # over each example, for the progress bar


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
    eos: bool = False,
    languages: str | None = None,
    beams: int = 4,
    window: int | None = None,
    stride: int | None = None,
    tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    read: tuple[Task, list[Any]] | None = None,
) -> dict[str, Any]:
    """The score of a model on texts or sentence pairs, and its paired difference from a baseline's.

    `data` is a path or the examples themselves. `against` is the model whose features are the
    truth. `baseline_tokenizer` is for a baseline that translates and reads other tokens.
    `columns` names those of a labelled task or of translation: {"text", "pair", "label"}.
    `languages` ('en-de') and `beams` are for translation; `pack` asks for the language-model loss
    of full blocks instead of lines, and `eos` for the end token after each line. `window`, `stride`
    and `tokens`, the most that are read, are for perplexity (`measuring.perplexity`). `progress` is
    called with (done, total) texts, or tokens for perplexity. `read` is what `examples_of` gave,
    instead of `data`.

    `difference` is model - baseline; of losses and perplexities it is in nats, with the ratio of
    the perplexities beside it. Its 95 % interval comes from 2,000 seeded resamples of the examples,
    or below 64 examples from a paired t interval (`measuring.intervals`). Raises Usage for a task
    that the model has no head for, and Failure for a score that is not finite.
    """
    models = [model] if baseline is None else [model, baseline]
    given = (samples, seed, columns or {}, languages, pack and not eos)
    row, examples = read or examples_of(task, data, models, against, *given)
    everyone = models + ([] if against is None else [against])
    length = min([max_length, *filter(None, map(position_limit, everyone))])
    if row.kind == "perplexity":  # its examples are the tokens of the text
        examples = joined_ids(tokenizer, examples[0], tokens)
        length = min(window_of(each, window) for each in models)
    tick = counted(progress, len(examples) * len(everyone) * PASSES.get(row.kind, 1))
    settings = {"batch": batch, "max_length": length, "tick": tick}
    tokenizers = [tokenizer, baseline_tokenizer or tokenizer][: len(models)]
    wanted = (models, against, tokenizers, examples, settings, seed, pack, languages, beams)
    found = found_of(Asked(row, *wanted, stride, eos))
    return _result(row, models, found, length, seed)


def _result(
    task: Task, models: list[nn.Module], found: Found, max_length: int, seed: int
) -> dict[str, Any]:
    """What was measured, as the parts of a report."""
    scores = [
        overall(task, each, statistic, found) | figures
        for each, statistic, figures in zip(models, found.statistics, found.figures, strict=True)
    ]
    result = {
        "task": task.name,
        "metric": task.metric,
        "better": task.better,
        "what": found.what,
        "max_length": max_length,
        "models": scores[:1],
        "warnings": found.warnings,
    }
    result |= found.shared
    return result | ({"baseline": paired(task, scores, found, seed)} if scores[1:] else {})


def paired(task: Task, scores: list[dict[str, Any]], found: Found, seed: int) -> dict[str, Any]:
    """The baseline's score, and how far the model's lies from it; an interval, or why none."""
    whole = np.arange(found.count)[None]
    mine, theirs = (float(statistic(whole)[0]) for statistic in found.statistics)
    result = scores[1] | {"difference": mine - theirs, "interval": None, "level": LEVEL}
    in_nats = task.kind in ("language", "perplexity")
    if in_nats:
        result |= {"ratio": exponential(mine - theirs)}
    if found.count < 2:
        return result | {"method": "none: one example has no spread"}
    if found.count < (least := max(METRICS[name].interval for name in task.metrics)):
        return result | {"method": f"none: {task.metric} needs {least} examples for an interval"}
    given = (*found.statistics, found.count, seed)
    try:
        interval = paired_interval(*given, added=found.added)
    except Failure as error:
        return result | {"method": f"none: {error}"}
    result |= {"interval": list(interval), "method": said(found.count, found.added)}
    if in_nats:
        result |= {"ratio_interval": exponentials(interval)}
    return result | ({"resamples": RESAMPLES} if found.count >= FEW else {})


def overall(task: Task, model: nn.Module, statistic: Statistic, found: Found) -> dict[str, Any]:
    """{"id", "score", "n"} over all examples. The score of labels may be nan, where it is not
    defined; of other tasks one that is not finite raises Failure."""
    score = found.score(float(statistic(np.arange(found.count)[None])[0]))
    if score is None or not (np.isfinite(score) or task.labelled):
        equal = "all cosines or all scores are equal, or " if task.kind == "similarity" else ""
        raise Failure(
            f"the {task.metric} of {name_of(model)} is {score}: {equal}its outputs are not finite"
        )
    return {"id": name_of(model), "score": score, "n": found.count}
