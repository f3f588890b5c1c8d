"""How well an encoder-decoder translates: the loss of target tokens, and BLEU of its output."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from tlmtool.data.batching import Batch, cut, cut_of, encode, encode_targets, pad
from tlmtool.data.parallel import Pair
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.inputs import check_token, inputs_of, name_of, padding_of, rows_of
from tlmtool.measuring.intervals import Statistic
from tlmtool.measuring.logits import LOGITS
from tlmtool.measuring.losses import Loss, objective_of
from tlmtool.measuring.outputs import (
    Tick,
    evaluating,
    logits_at,
    position_limit,
    shifted,
)

ENDLESS = 2**30  # tokens; no text has as many
LONGER, MORE = 2, 10  # a translation has at most 2 N + 10 tokens; less cuts long translations


class Part(NamedTuple):
    """Sources as a batch, their translations `ids` (B, M), and which of these are not padding."""

    sources: Batch
    ids: Tensor
    wanted: Tensor


class Sides:
    """Sentence pairs as tokens, both sides cut to `max_length`. `lengths`: the tokens of source and
    target together. Raises Usage where the model cannot translate with this tokenizer, or at all.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, pairs: list[Pair], max_length: int):
        translates(model, tokenizer)
        self.tokenizer, self.pairs = tokenizer, pairs
        self.max_length = min(max_length, position_limit(model) or max_length)
        self.sources = encode(tokenizer, [a for a, _ in pairs], None, self.max_length)
        self.targets = encode_targets(tokenizer, [b for _, b in pairs], self.max_length)
        sources = self.sources["input_ids"]
        self.lengths = [len(a) + len(b) for a, b in zip(sources, self.targets, strict=True)]
        self.fill = padding_of(model) or 0
        check_token(model, max(map(max, self.targets)))

    def cut(self) -> list[str]:
        """Warnings of sources and of translations that are too long to be read whole."""
        sources, targets = ([pair[side] for pair in self.pairs] for side in (0, 1))

        def whole(places: list[int]) -> list[list[int]]:
            return encode_targets(self.tokenizer, [targets[place] for place in places], ENDLESS)

        found = cut(self.tokenizer, sources, self.max_length, "sources", None, self.sources)
        return found + cut_of(self.targets, whole, self.max_length, "translations")

    def part(self, places: list[int]) -> Part:
        """The pairs at these places."""
        rows = [torch.tensor(self.targets[i]) for i in places]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.fill)
        lengths = torch.tensor([len(row) for row in rows])
        wanted = torch.arange(ids.shape[1]) < lengths[:, None]
        return Part(pad(self.tokenizer, self.sources, places), ids, wanted)

    def parts(self, batch: int) -> Iterator[Part]:
        """All pairs, longest first."""
        order = sorted(range(len(self.pairs)), key=lambda i: -self.lengths[i])
        for start in range(0, len(order), batch):
            yield self.part(order[start : start + batch])


def translates(model: nn.Module, tokenizer: Any) -> None:
    """Raises Usage where the model has no head for translation, or its tokens do not fit."""
    if objective_of(model) != "seq2seq":
        raise Usage(
            f"task translation does not fit {name_of(model)}: a {type(model).__name__} has no "
            "sequence-to-sequence head"
        )
    if tokenizer.eos_token_id is None:
        raise Usage(
            f"the tokenizer of {name_of(model)} has no end token, which a translation needs"
        )
    rows, start = rows_of(model), start_of(model)
    if start >= rows:
        raise Usage(
            f"config.json of {name_of(model)} has decoder_start_token_id {start}, but there are "
            f"{rows} tokens: name one of these, such as that of padding"
        )


def start_of(model: nn.Module) -> int:
    """The token that the decoder starts from."""
    return int(shifted(model, torch.zeros(1, 1, dtype=torch.long)))


def target_inputs(model: nn.Module, part: Part) -> tuple[dict[str, Any], Tensor, Tensor]:
    """(what the model takes for a batch, where its T target tokens are (B, M), their ids (T,)).
    Each target token is predicted from the true ones before it."""
    inputs: dict[str, Any] = inputs_of(model, part.sources)
    device = inputs["input_ids"].device
    ids, wanted = part.ids.to(device), part.wanted.to(device)
    inputs |= {"decoder_input_ids": shifted(model, ids), "use_cache": False}
    return inputs, wanted, ids[wanted]


@torch.no_grad()
def translation_loss(
    model: nn.Module, sides: Sides, batch: int = 32, tick: Tick | None = None
) -> Loss:
    """The NLL of each translation in nats, and the number of its tokens, with the end token. Raises
    Failure for a loss that is not finite."""
    batch = max(1, min(batch, LOGITS // (sides.max_length * rows_of(model))))
    sums, counts = np.zeros(len(sides.pairs)), np.zeros(len(sides.pairs), int)
    with evaluating(model):
        for part in sides.parts(batch):
            inputs, wanted, ids = target_inputs(model, part)
            logits = logits_at(model, model, inputs, wanted)
            nll = cross_entropy(logits, ids, reduction="none").cpu()
            each = torch.zeros(part.ids.shape, dtype=torch.float64)
            each[part.wanted] = nll.double()
            places = part.sources.indices
            sums[places], counts[places] = each.sum(1).numpy(), part.wanted.sum(1).numpy()
            if tick:
                tick(len(places))
    if not np.isfinite(sums).all():
        raise Failure(f"the loss of {name_of(model)} is not finite")
    return Loss("seq2seq", sums, counts)


def generation(model: nn.Module, tokenizer: Any, beams: int, length: int) -> GenerationConfig:
    """How a model translates: by beam search (greedy for one beam) of at most `length` tokens. It
    never generates the padding token, and stops at the tokenizer's end token."""
    end, fill = tokenizer.eos_token_id, tokenizer.pad_token_id
    if fill is not None and fill >= rows_of(model):  # the tokenizer has tokens beyond the table
        fill = padding_of(model)
    fill = end if fill is None else fill
    return GenerationConfig(
        num_beams=beams,
        do_sample=False,
        max_new_tokens=length,
        pad_token_id=fill,
        eos_token_id=end,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=start_of(model),
        forced_eos_token_id=end,  # a new config may name another token
        bad_words_ids=None if fill == end else [[fill]],
    )


@torch.no_grad()
def translations(
    model: nn.Module, sides: Sides, beams: int, batch: int = 32, tick: Tick | None = None
) -> list[str]:
    """The translation of each source, without special tokens."""
    found = [""] * len(sides.pairs)
    with evaluating(model):
        for part in sides.parts(batch):
            inputs = inputs_of(model, part.sources)
            length = min(sides.max_length, LONGER * inputs["input_ids"].shape[1] + MORE)
            settings = generation(model, sides.tokenizer, beams, length)
            made = model.generate(**inputs, generation_config=settings)
            said = sides.tokenizer.batch_decode(made, skip_special_tokens=True)
            for place, text in zip(part.sources.indices, said, strict=True):
                found[place] = text.strip()
            if tick:
                tick(len(part.sources.indices))
    return found


class Translated(NamedTuple):
    """The translations of a model, their BLEU by sentences, and the figures that go with it."""

    texts: list[str]
    statistic: Statistic
    figures: dict[str, Any]


def translated(
    model: nn.Module,
    sides: Sides,
    bleu: Bleu,
    beams: int,
    batch: int = 32,
    tick: Tick | None = None,
) -> Translated:
    """Translate the sources and compare with the targets, by BLEU, loss and perplexity."""
    loss = translation_loss(model, sides, batch, tick)
    texts = translations(model, sides, beams, batch, tick)
    statistic = bleu.statistic(bleu.counts(texts, [b for _, b in sides.pairs]))
    figures = {"loss": loss.mean, "perplexity": loss.perplexity, "signature": bleu.signature}
    return Translated(texts, statistic, figures | {"beams": beams})
