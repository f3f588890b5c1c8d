"""The language-model loss of a model's own objective, text by text, with seeded masks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlmtool.data.batching import Batch, encode, in_batches, packed
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.inputs import check_token, inputs_once, name_of, rows_of
from tlmtool.measuring.logits import LOGITS
from tlmtool.measuring.outputs import (
    Tick,
    before,
    evaluating,
    logits_at,
    position_limit,
    shifted,
)
from tlmtool.tasks.table import TASKS

MASKED, AS_MASK, AS_RANDOM = 0.15, 0.8, 0.1  # shares of BERT; others make losses incomparable
RECONSTRUCTION = (
    "reconstruction loss: mean NLL in nats of a text's tokens, teacher-forced, the encoder reading "
    "the same text"
)


def objective_of(model: nn.Module) -> str | None:
    """The kind of a model's language-model head, by its class: `mlm`, `clm`, `seq2seq` or None."""
    from transformers.models.auto import modeling_auto as auto

    names = {kind.__name__ for kind in type(model).__mro__}
    tables = {
        "seq2seq": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,  # first: some are in two
        "clm": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "mlm": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    }
    for objective, table in tables.items():
        if names & set(table.values()):
            return objective
    pretraining = names & set(auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.values())
    return "mlm" if pretraining and model.get_output_embeddings() is not None else None


def described(objective: str) -> str:
    """What the loss of an objective is, in words."""
    return RECONSTRUCTION if objective == "seq2seq" else TASKS[objective].what


def exponential(nats: float) -> float | None:
    """The perplexity of a loss, or the ratio of the perplexities of a difference of losses. None
    where a float cannot hold it."""
    return float(np.exp(nats)) if nats < 700 else None


def exponentials(interval: tuple[float, float] | None) -> list[float | None] | None:
    """`exponential` of both ends of an interval, if there is one."""
    return None if interval is None else [exponential(end) for end in interval]


@dataclass(frozen=True)
class Loss:
    """The NLL of each text in nats (`sums`) and its number of tokens (`counts`)."""

    objective: str
    sums: np.ndarray
    counts: np.ndarray

    def statistic(self, index: np.ndarray) -> np.ndarray:
        """Mean NLL per token of resampled texts: index (S, n) -> (S,)."""
        with np.errstate(invalid="ignore"):
            return self.sums[index].sum(-1) / self.counts[index].sum(-1)

    @property
    def mean(self) -> float:
        return float(self.statistic(np.arange(len(self.sums))))

    @property
    def perplexity(self) -> float | None:
        return exponential(self.mean)


def language_loss(
    model: nn.Module,
    tokenizer: Any,
    texts: list[str],
    *,
    batch: int = 32,
    max_length: int = 128,
    seed: int = 0,
    pack: bool = False,
    eos: bool = False,
    tick: Tick | None = None,
) -> Loss:
    """The loss of the model's own objective on each text, or with `pack` on each full block of
    `max_length` tokens (`eos` as `packed` takes it). Masks depend on the seed and the tokenizer
    only.

    Raises Usage for a model without a language-model head, and Failure for a loss that is not
    finite.
    """
    objective = objective_of(model)
    if objective is None:
        raise Usage(
            f"{name_of(model)} is a {type(model).__name__}, which has no language-modelling head"
        )
    if objective == "mlm" and tokenizer.mask_token_id is None:
        raise Usage(
            f"the tokenizer of {name_of(model)} has no mask token, which the masked loss needs"
        )
    max_length = min(max_length, position_limit(model) or max_length)
    batch = max(1, min(batch, LOGITS // (max_length * rows_of(model))))
    encoded = (
        packed(tokenizer, texts, max_length, eos)
        if pack
        else encode(tokenizer, texts, max_length=max_length)
    )
    held = len(encoded["input_ids"])
    check_token(model, max((max(ids) for ids in encoded["input_ids"] if ids), default=0))
    sums, counts, read = np.zeros(held), np.zeros(held, int), 0
    with evaluating(model):
        for part in in_batches(tokenizer, encoded, batch):
            sums[part.indices], counts[part.indices] = _text_losses(
                model, tokenizer, part, objective, seed
            )
            if tick:  # it counts texts, also where blocks are read
                now = read + len(part.indices)
                tick(len(texts) * now // held - len(texts) * read // held)
                read = now
    if not counts.sum():
        raise Usage(
            f"no token of the {len(texts)} texts can be predicted: give texts of two tokens or more"
        )
    if not np.isfinite(sums).all():
        wrong = f"{int((~np.isfinite(sums)).sum())} of {len(sums)} texts"
        raise Failure(f"the loss of {name_of(model)} is not finite on {wrong}")
    return Loss(objective, sums, counts)


@torch.no_grad()
def _text_losses(
    model: nn.Module, tokenizer: Any, part: Batch, objective: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the NLL (B,) and the number of predicted tokens (B,) of each text in a batch."""
    read, real = part, part.inputs["attention_mask"].bool()  # (B, N)
    if objective == "mlm":
        corrupted, wanted = masked(part, tokenizer, seed, rows_of(model))
        read = part.reading(corrupted)
    else:
        later = torch.arange(real.shape[1]) > 0
        wanted = real & later if objective == "clm" else real
    inputs = inputs_once(model, read)
    if objective == "seq2seq":
        inputs["decoder_input_ids"] = shifted(model, inputs["input_ids"])
    wanted = wanted.to(inputs["input_ids"].device)
    ids = part.inputs["input_ids"].to(wanted.device)
    logits = logits_at(model, model, inputs, before(wanted) if objective == "clm" else wanted)
    nll = cross_entropy(logits, ids[wanted], reduction="none").double().cpu()
    rows = wanted.nonzero()[:, 0].cpu()
    sums = torch.zeros(len(part.indices), dtype=torch.float64).index_add_(0, rows, nll)
    return sums.numpy(), wanted.sum(1).cpu().numpy()


def masked(
    part: Batch, tokenizer: Any, seed: int, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Corrupted ids (B, N) and which tokens to predict (B, N), drawn by (seed, place of the text).

    15 % of a text's tokens that are not special are predicted, and at least one. Of these, 80 %
    become the mask token, 10 % a random one (of the first `rows`), and 10 % stay.
    """
    others = min(tokenizer.vocab_size, rows or tokenizer.vocab_size)
    ids, chosen = part.inputs["input_ids"].clone(), torch.zeros_like(part.special)
    for row, index in enumerate(part.indices):
        free = (~part.special[row]).nonzero()[:, 0].numpy()
        if not len(free):
            continue
        draw = np.random.default_rng((seed, index))
        places = draw.choice(free, max(1, round(MASKED * len(free))), replace=False)
        kind, other = draw.random(len(places)), draw.integers(0, others, len(places))
        chosen[row, places] = True
        ids[row, places[kind < AS_MASK]] = tokenizer.mask_token_id
        swap = (kind >= AS_MASK) & (kind < AS_MASK + AS_RANDOM)
        ids[row, places[swap]] = torch.from_numpy(other[swap])
    return ids, chosen
