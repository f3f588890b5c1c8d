"""Scores of hidden states: the similarity of sentences, and the error against another model."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn.functional import cosine_similarity

from tlmtool.data.labelled import Pair
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.inputs import name_of
from tlmtool.measuring.intervals import Statistic
from tlmtool.measuring.outputs import streamed
from tlmtool.measuring.pooling import Pooling


def similarity(
    model: nn.Module, pool: Pooling, tokenizer: Any, pairs: list[Pair], settings: dict[str, Any]
) -> Statistic:
    """Spearman of resampled pairs by the cosine of their pooled last hidden states."""
    sentences = pool.texts([left for left, _, _ in pairs] + [right for _, right, _ in pairs])
    longest = min(settings["max_length"], pool.longest or settings["max_length"])
    settings = settings | {"max_length": longest, "encoder": pool.encoder}
    skipped = pool.skipped(tokenizer)
    pooled: list[torch.Tensor] = [torch.empty(0)] * len(sentences)
    with ExitStack() as stack:
        for part, hidden in streamed(stack, model, tokenizer, sentences, **settings):
            vectors = pool(hidden, part.inputs["attention_mask"], skipped)  # (B, F)
            for index, vector in zip(part.indices, vectors.cpu(), strict=True):
                pooled[index] = vector
    left, right = torch.stack(pooled).double().chunk(2)
    cosines, scores = (
        cosine_similarity(left, right).numpy(),
        np.array([score for _, _, score in pairs]),
    )
    if not np.isfinite(cosines).all():
        wrong = int((~np.isfinite(cosines)).sum())
        raise Failure(f"the hidden states of {name_of(model)} are not finite on {wrong} pairs")

    def statistic(index: np.ndarray) -> np.ndarray:
        a, b = rankdata(cosines[index], axis=-1), rankdata(scores[index], axis=-1)
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

    return statistic


def features(
    models: list[nn.Module],
    against: nn.Module,
    tokenizer: Any,
    texts: list[str],
    settings: dict[str, Any],
) -> list[Statistic]:
    """For each model, the relative error of its last hidden states over resampled texts."""
    wrong, whole = np.zeros((len(models), len(texts))), np.zeros(len(texts))
    with ExitStack() as stack:
        truth = streamed(stack, against, tokenizer, texts, **settings)
        others = [streamed(stack, model, tokenizer, texts, **settings) for model in models]
        for (part, true), *found in zip(truth, *others, strict=True):
            mask = part.inputs["attention_mask"].to(true.device)[..., None]
            whole[part.indices] = (true * mask).double().square().sum((1, 2)).cpu()
            for row, (model, (_, hidden)) in enumerate(zip(models, found, strict=True)):
                if hidden.shape != true.shape:
                    names = f"{name_of(model)} and {name_of(against)}"
                    widths = f"{hidden.shape[-1]} and {true.shape[-1]}"
                    raise Usage(f"{names} have hidden states of widths {widths}")
                difference = (hidden.to(true.device) - true) * mask
                wrong[row, part.indices] = difference.double().square().sum((1, 2)).cpu()

    def statistic(row: int) -> Statistic:
        return lambda index: np.sqrt(wrong[row][index].sum(-1) / whole[index].sum(-1))

    return [statistic(row) for row in range(len(models))]
