"""What a model is trained for: the loss of a batch and the score of a model, a class a kind."""

from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tlmtool.data.batching import Batch, cut, encode, packed, pad
from tlmtool.data.labelled import Example
from tlmtool.failure import Usage
from tlmtool.measuring.inputs import check_token, inputs_once, outputs_of, rows_of
from tlmtool.measuring.logits import within
from tlmtool.measuring.losses import MASKED, language_loss, masked, objective_of
from tlmtool.measuring.marks import marked
from tlmtool.measuring.metrics import scored, statistic, undefined
from tlmtool.measuring.outputs import before, position_limit
from tlmtool.measuring.predictions import columns, predictions
from tlmtool.tasks.table import Task

Progress = Callable[[int, int], None]


class Objective:
    """Examples to train on, as tokens; subclasses add the loss and the score.

    `lengths`: the tokens of each example, over all of its `sequences`. `name` and `better` are of
    the score that is watched; `final` is the same of the score at the end, where that is another.
    `share`: the part of the tokens that the head is given. `progress` is called with (done, of how
    many) by a score that takes long. `dropout`: whether the model learns under its dropout.
    """

    better = "higher"
    name = "score"
    final: tuple[str, str] | None = None
    sequences = 1
    share = 1.0
    progress: Progress | None = None
    dropout = True
    told: tuple[str, ...] = ()  # warnings of the last score
    cut: tuple[str, ...] = ()  # warnings of texts that are too long to be read whole

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: list[str],
        seconds: Any,
        max_length: int,
        pack: bool = False,
        eos: bool = False,
    ):
        self.tokenizer = tokenizer
        self.max_length = min(max_length, position_limit(model) or max_length)
        if pack:
            self.encoded = packed(tokenizer, texts, self.max_length, eos)
        else:
            self.encoded = encode(tokenizer, texts, seconds, self.max_length)
            given = (self.max_length, "training texts", seconds, self.encoded)
            self.cut = tuple(cut(tokenizer, texts, *given))
        self.rows = rows_of(model)
        self.lengths = [len(ids) for ids in self.encoded["input_ids"]]
        self.largest = max((max(ids) for ids in self.encoded["input_ids"] if ids), default=0)
        check_token(model, self.largest)

    def part(self, places: list[int], epoch: int) -> Any:
        """The examples at these places as a batch."""
        return pad(self.tokenizer, self.encoded, places)

    def count(self, part: Any) -> int:
        """How many examples or tokens the loss of a batch is a sum over."""
        return len(part.indices)

    def loss(self, model: nn.Module, own: nn.Module, part: Any) -> Tensor:
        """The summed loss of a batch, float32. `own` is the model, `model` what wraps it."""
        raise NotImplementedError

    def many(self, examples: list) -> int:
        """How many examples these are, counted as `lengths` counts them."""
        return len(examples)

    def scored(self, model: nn.Module, examples: list) -> dict[str, float]:
        """{"score": ..., and the figures that go with it} on examples."""
        raise NotImplementedError

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The score on the examples that are watched."""
        return self.scored(model, self.watched)


class Labelled(Objective):
    """Classification (by cross-entropy) or regression (by squared error) of texts or pairs."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        task: Task,
        train: list[Example],
        watched: list[Example],
        max_length: int,
    ):
        seconds = None if train[0].second is None else [each.second for each in train]
        super().__init__(model, tokenizer, [each.first for each in train], seconds, max_length)
        kind = torch.float32 if task.kind == "regression" else torch.long
        self.labels = torch.tensor([each.label for each in train], dtype=kind)
        self.task, self.watched, self.columns = task, watched, columns(task, model)
        self.name = task.metric

    def loss(self, model: nn.Module, own: nn.Module, part: Batch) -> Tensor:
        logits = outputs_of(model, own, inputs_once(own, part)).logits.float()
        return self.loss_of(logits, part)

    def loss_of(self, logits: Tensor, part: Batch) -> Tensor:
        """The summed loss of logits (B, classes), in the order of the head."""
        labels = self.labels[part.indices].to(logits.device)
        if self.task.kind == "regression":
            return mse_loss(logits[:, 0], labels, reduction="sum")
        return cross_entropy(logits[:, self.columns], labels, reduction="sum")

    def final_score(self, model: nn.Module, examples: list[Example]) -> dict[str, Any]:
        """The same as `scored`, with what it was measured on."""
        score = self.scored(model, examples)
        of = statistic(self.task.metrics, *self.answers)
        return score | {"examples": marked(of, len(examples), self.task.name, examples)}

    def scored(self, model: nn.Module, examples: list[Example]) -> dict[str, float]:
        found = predictions(model, self.tokenizer, self.task, examples, self.max_length)
        labels = np.array([each.label for each in examples])
        self.answers = (found, labels)
        score = scored(self.task.metrics, found, labels, self.task.scored_beside)
        self.told = tuple(undefined(score, len(labels), "on the development examples"))
        if self.told:  # models are still compared, and one that tells nothing apart is the worst
            score = {name: 0.0 if isnan(value) else value for name, value in score.items()}
            score["score"] = sum(score[name] for name in self.task.metrics) / len(self.task.metrics)
        return score


class Language(Objective):
    """The language-model loss of a model's own head, `mlm` or `clm`. An example is a line of text,
    or with `pack` a full block of tokens."""

    better = "lower"
    name = "loss"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        train: list[str],
        watched: list[str],
        max_length: int,
        seed: int,
        pack: bool = False,
        eos: bool = False,
    ):
        super().__init__(model, tokenizer, train, None, max_length, pack, eos)
        self.kind, self.watched, self.seed = objective_of(model), watched, seed
        self.pack, self.eos, self.share = pack, eos, MASKED if self.kind == "mlm" else 1.0
        if self.kind == "mlm" and tokenizer.mask_token_id is None:
            raise Usage("the tokenizer has no mask token, which task mlm needs")

    def part(self, places: list[int], epoch: int) -> tuple[Batch, Tensor, Tensor]:
        """(batch, the token ids that the model reads (B, N), which tokens it predicts (B, N))"""
        batch = super().part(places, epoch)
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        if self.kind == "mlm":
            seed = self.seed + 1_000_003 * (epoch + 1)
            read, wanted = masked(batch, self.tokenizer, seed, self.rows)
        else:
            read, wanted = ids, real & (torch.arange(ids.shape[1]) > 0)
        return batch, read, wanted

    def count(self, part: Any) -> int:
        return int(part[2].sum())

    def loss(self, model: nn.Module, own: nn.Module, part: Any) -> Tensor:
        batch, read, wanted = part
        inputs = inputs_once(own, batch.reading(read))
        wanted = wanted.to(inputs["input_ids"].device)
        ids = batch.inputs["input_ids"].to(wanted.device)
        places = wanted if self.kind == "mlm" else before(wanted)
        targets = ids[wanted]

        def loss_of(logits: Tensor, some: slice) -> Tensor:
            return cross_entropy(logits, targets[some], reduction="sum")

        return within(model, own, inputs, lambda body: body.loss(places, loss_of))

    def many(self, examples: list[str]) -> int:
        """How many texts these are, or how many blocks."""
        if not self.pack:
            return len(examples)
        return len(packed(self.tokenizer, examples, self.max_length, self.eos)["input_ids"])

    def scored(self, model: nn.Module, examples: list[str]) -> dict[str, float]:
        settings = {"max_length": self.max_length, "seed": self.seed}
        settings |= {"pack": self.pack, "eos": self.eos}
        return {"score": language_loss(model, self.tokenizer, examples, **settings).mean}
