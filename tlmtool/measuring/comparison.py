"""One model before and after a change: its quality, and whether it computes the same."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.failure import CheckFailed
from tlmtool.measuring.counting import example_of
from tlmtool.measuring.inputs import outputs_of
from tlmtool.measuring.losses import described, language_loss, objective_of
from tlmtool.measuring.outputs import (
    evaluating,
    hidden_states,
    position_limit,
    relative_error,
)
from tlmtool.report.parts.parity import Parity
from tlmtool.report.parts.quality import Quality as Measured
from tlmtool.tasks.table import TASKS

TOLERANCE = 1e-5  # of the largest output, between a merged and a factorized model in float32


class Quality:
    """The language-model loss of a model before and after a change. For a model without such a head
    it is the error of its last hidden states (N, E) of `texts` against those before."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: list[str],
        max_length: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.tokenizer, self.texts, self.seed = tokenizer, texts, seed
        self.max_length = max_length
        self.progress = progress or (lambda done, total: None)
        self.objective = objective_of(model)
        self.before: Any = self._measured(model)

    def _measured(self, model: nn.Module) -> Any:
        done = 0

        def tick(more: int) -> None:
            nonlocal done
            done += more
            self.progress(done, len(self.texts))

        settings = {"max_length": self.max_length, "tick": tick}
        if self.objective is None:
            return hidden_states(model, self.tokenizer, self.texts, **settings)
        loss = language_loss(model, self.tokenizer, self.texts, seed=self.seed, **settings)
        return loss.mean

    def compared(self, model: nn.Module) -> Measured:
        """The quality of the model before, and as it is now."""
        after = self._measured(model)
        if self.objective is None:
            error = relative_error(after, self.before)
            return Measured(
                name="feature_error",
                what=f"no language-model head, so: {TASKS['features'].what}, "
                f"against the model before, on {len(self.texts)} held-out texts",
                before=0.0,
                after=error,
                texts=len(self.texts),
            )
        return Measured(
            name="loss",
            what=f"{described(self.objective)}, on {len(self.texts)} held-out texts",
            before=self.before,
            after=after,
            texts=len(self.texts),
        )


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
