"""Translation as an objective: cross-entropy of each target token, given the true ones before."""

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlmtool.data.parallel import Pair
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.logits import within
from tlmtool.measuring.outputs import counted
from tlmtool.measuring.translating import (
    Part,
    Sides,
    target_inputs,
    translated,
    translation_loss,
)
from tlmtool.training.objectives import Objective


class Translation(Objective):
    """Translates sentences. The loss of held-out translations is watched, as it costs one forward
    pass. BLEU of what the model generates is the score at the end, as it costs many.

    `smoothing`: the share of a label that is spread over the vocabulary, in training alone.
    """

    better, name, final, sequences = "lower", "dev loss", ("BLEU", "higher"), 2

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        train: list[Pair],
        watched: list[Pair],
        max_length: int,
        bleu: Bleu,
        beams: int,
        smoothing: float = 0.0,
    ):
        self.tokenizer, self.bleu, self.beams, self.smoothing = tokenizer, bleu, beams, smoothing
        self.sides = Sides(model, tokenizer, train, max_length)
        self.watched = Sides(model, tokenizer, watched, max_length)
        self.cut = tuple(self.sides.cut())
        self.max_length, self.lengths = self.sides.max_length, self.sides.lengths

    def part(self, places: list[int], epoch: int) -> Part:
        return self.sides.part(places)

    def count(self, part: Part) -> int:
        return int(part.wanted.sum())

    def loss(self, model: nn.Module, own: nn.Module, part: Part) -> Tensor:
        inputs, wanted, targets = target_inputs(own, part)
        settings: dict[str, Any] = {"reduction": "sum", "label_smoothing": self.smoothing}

        def loss_of(logits: Tensor, some: slice) -> Tensor:
            return cross_entropy(logits, targets[some], **settings)

        return within(model, own, inputs, lambda body: body.loss(wanted, loss_of))

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {"score": translation_loss(model, self.watched).mean}

    def scored(self, model: nn.Module, examples: list[Pair]) -> dict[str, Any]:
        sides = Sides(model, self.tokenizer, examples, self.max_length)
        tick = counted(self.progress, 2 * len(examples))
        found = translated(model, sides, self.bleu, self.beams, tick=tick)
        score = float(found.statistic(np.arange(len(examples))[None])[0])
        return {"score": score, "BLEU": score, **found.figures}
