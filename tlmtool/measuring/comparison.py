"""One model before and after a change: its quality, and whether it computes the same."""

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlmtool.data.batching import joined_ids
from tlmtool.data.language import HELD_TOKENS
from tlmtool.failure import CheckFailed
from tlmtool.measuring.counting import example_of
from tlmtool.measuring.inputs import outputs_of
from tlmtool.measuring.losses import described, language_loss, objective_of
from tlmtool.measuring.marks import marked
from tlmtool.measuring.outputs import (
    counted,
    evaluating,
    hidden_states,
    position_limit,
    relative_error,
)
from tlmtool.measuring.perplexity import perplexity
from tlmtool.measuring.rises import in_windows, window_in
from tlmtool.report.building import built
from tlmtool.report.parts.parity import Parity
from tlmtool.report.parts.quality import Nats
from tlmtool.report.parts.quality import Quality as Measured
from tlmtool.report.pieces import Examples
from tlmtool.tasks.table import TASKS

TOLERANCE = 1e-5  # of the largest output, between a merged and a factorized model in float32


class Quality:
    """How good a model is before and after a change, on held-out text.

    Of a causal language model that is its perplexity in windows of the joined text, of another
    language model its loss text by text. For a model without such a head it is the error of its
    last hidden states (N, E) against those before. `held`: texts, or a joined text. `new`: the
    model before is not measured, as its weights are random.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        held: list[str] | str,
        max_length: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
        new: bool = False,
    ):
        self.tokenizer, self.texts, self.seed = tokenizer, held, seed
        self.max_length = max_length
        self.progress = progress or (lambda done, total: None)
        self.objective = objective_of(model)
        self.ids = list[int]()
        if self.objective == "clm":
            text = held if isinstance(held, str) else "\n".join(held)
            self.ids = joined_ids(tokenizer, text, HELD_TOKENS + 1)  # the first is not predicted
        self.before: Any = None if new else self.measured(model)

    def measured(self, model: nn.Module) -> Any:
        """The perplexity, the loss or the hidden states of the model as it is now."""
        many = len(self.ids) - 1 if self.ids else len(self.texts)
        tick = counted(self.progress, many)
        if self.objective == "clm":
            return perplexity(model, self.ids, window=window_in(model, self.max_length), tick=tick)
        settings = {"max_length": self.max_length, "tick": tick}
        if self.objective is None:
            return hidden_states(model, self.tokenizer, self.texts, **settings)
        return language_loss(model, self.tokenizer, self.texts, seed=self.seed, **settings)

    def compared(self, model: nn.Module, known: Any = None) -> Measured:
        """The quality of the model before, and as it is now. `known`: what was `measured` of it, if
        it has not changed since."""
        after = self.measured(model) if known is None else known
        if self.objective is None:
            return self._feature_error(after)
        seed = self.seed if self.objective == "mlm" else None  # it chooses what is masked
        how = (self.max_length, int(after.counts.sum()), seed)
        read = self.ids or self.texts
        examples = marked(after.statistic, len(after.sums), self.objective, read, *how)
        held = built(Examples, examples)
        if self.objective == "clm":
            return replace(in_windows(self.before, after, self.seed), examples=held)
        return Measured(
            examples=held,
            name="loss",
            what=f"{described(self.objective)}, on {len(self.texts)} held-out texts",
            before=self.before.mean,
            after=after.mean,
            texts=len(self.texts),
            nats=Nats(difference=after.mean - self.before.mean),
        )

    def _feature_error(self, after: list[Tensor]) -> Measured:
        pairs = zip(after, self.before, strict=True)
        wrong, whole = np.array([_squares(a, b) for a, b in pairs]).T  # (texts,) each

        def statistic(index: np.ndarray) -> np.ndarray:
            return np.sqrt(wrong[index].sum(-1) / whole[index].sum(-1))

        dense = f"{whole.sum():.4g}"  # tells models apart whose features are taken as correct
        examples = marked(statistic, len(after), "features", self.texts, self.max_length, dense)
        return Measured(
            examples=built(Examples, examples),
            name="feature_error",
            what=f"no language-model head, so: {TASKS['features'].what}, "
            f"against the model before, on {len(self.texts)} held-out texts",
            before=0.0,
            after=relative_error(after, self.before),
            texts=len(self.texts),
        )


def _squares(after: Tensor, before: Tensor) -> tuple[float, float]:
    """The squared norms of after - before and of before, in float64."""
    wrong = (after.double() - before.double()).square().sum()
    return float(wrong), float(before.double().square().sum())


@torch.no_grad()
def probe(model: nn.Module, seed: int = 0) -> Tensor:
    """The first output of the model on two rows of 48 seeded random tokens, float64 on the CPU."""
    inputs = example_of(model, min(48, position_limit(model) or 48), 2, seed)
    with evaluating(model):
        return outputs_of(model, model, inputs)[0].double().cpu()


def parity(after: Tensor, before: Tensor) -> Parity:
    """How far the outputs of a model are from those before, by themselves and relative."""
    largest = float((after - before).abs().max())
    relative = largest / max(float(before.abs().max()), 1e-300)
    return Parity(max_abs=largest, relative=relative, tolerance=TOLERANCE)


def check(found: Parity, differs: str, model: nn.Module) -> None:
    """Raises CheckFailed for a parity above its tolerance, of a model of float32 or finer, and for
    one that is no number. `differs`: "the merged model differs from the trained one"."""
    if not isfinite(found.relative):
        raise CheckFailed(
            f"whether {differs} cannot be told: outputs hold NaN or infinity, so nothing was "
            "written"
        )
    if found.relative > found.tolerance and model.dtype.itemsize >= 4:
        raise CheckFailed(
            f"{differs} by {found.relative:.1e} of its largest output, more than "
            f"{found.tolerance:g}: nothing was written"
        )
