"""Translating alone: the loss, BLEU, beam search with and without a cache, padding, targets."""

import re

import numpy as np
import pytest
import torch
from conftest import pico
from pairs import random_model, sentences, tokenizer
from tokenizers import normalizers
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedTokenizerFast,
)

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.data.batching import encode_targets
from tlmtool.failure import Usage
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.translating import Sides, generation, translation_loss, translations
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.modeling import adopt


def test_bleu_is_sacrebleus_and_its_counts_can_be_resampled():
    from sacrebleu.metrics import BLEU

    true = [b for _, b in sentences(40, 3)]
    draw = np.random.default_rng(0)
    found = [" ".join(w for w in b.split() if draw.random() < 0.8) for b in true]
    bleu = Bleu("de")
    statistic = bleu.statistic(bleu.counts(found, true))
    index = np.stack([np.arange(40), draw.integers(0, 40, 40)])
    for score, rows in zip(statistic(index), index, strict=True):
        theirs = BLEU().corpus_score([found[i] for i in rows], [[true[i] for i in rows]])
        assert score == pytest.approx(theirs.score, abs=1e-9)
    metric = BLEU()
    metric.corpus_score(found, [true])
    assert bleu.signature == str(metric.get_signature())
    assert Bleu("zh_CN").signature.count("tok:zh") == 1


@pytest.mark.parametrize("family", ["marian", "bart", "t5"])
def test_the_loss_is_that_of_transformers_and_padding_does_not_count(family):
    more = {"vocab_size": 26, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    found, read, pairs = pico(family, "lm", **more), tokenizer(), sentences(9, 1)
    loss = translation_loss(found, Sides(found, read, pairs, 24), batch=4)
    for i, (source, target) in enumerate(pairs):
        inputs = read([source], text_target=[target], return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            alone = float(found(**inputs).loss) * inputs["labels"].numel()
        assert loss.sums[i] == pytest.approx(alone, rel=1e-4)
        assert loss.counts[i] == len(target.split()) + 1  # and the end


@pytest.mark.parametrize("end", [True, False])
def test_every_target_ends_and_is_cut(end):
    found = encode_targets(tokenizer(end), ["die Katze saß auf einer Matte", "die"], 4)
    assert [ids[-1] for ids in found] == [2, 2] and [len(ids) for ids in found] == [4, 2]
    assert found[0][:3] == [15, 16, 17]


class TwoSided(PreTrainedTokenizerFast):
    """One that reads its target language in another way, as that of marian does."""

    def _switch_to_target_mode(self):
        self.backend_tokenizer.normalizer = normalizers.Replace("k", "K")

    def _switch_to_input_mode(self):
        self.backend_tokenizer.normalizer = None


def test_targets_are_read_as_the_target_language():
    read = TwoSided(
        tokenizer_object=tokenizer().backend_tokenizer, eos_token="</s>", unk_token="<unk>"
    )
    assert encode_targets(read, ["die katze"], 9) == [[15, 16, 2]]
    assert read("die katze")["input_ids"] == [15, 3, 2]


KERNELS = {"dimensionwise": DimensionWise(mixer=3), "decay": MultiLinear(w_o="decay", terms=3)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", ["encoder.", "decoder."])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_converted_side_translates_alike_with_a_cache_and_without(kernel, side, beams):
    """In batches of unequal lengths, and a sentence alone."""
    found, read = random_model(init_std=0.5, encoder_layers=2, decoder_layers=2), tokenizer()
    chosen = [path for path in attention_sites(found) if path.startswith(side)]
    assert len(chosen) == 2
    torch.manual_seed(1)
    attend(found, dict.fromkeys(chosen, KERNELS[kernel]))
    found, pairs = adopt(found).eval(), sentences(8, 5)
    said = []
    for cached, batch in ((True, 8), (False, 8), (True, 1)):
        sides = Sides(found, read, pairs, 24)
        found.generation_config.use_cache = cached
        said.append(translations(found, sides, beams, batch))
    assert said[0] == said[1] and len({*said[0]}) > 1
    inputs = read([a for a, _ in pairs], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    alone = [translations(found, Sides(found, read, [p], 24), beams) for p in pairs]
    assert said[2] == [text for (text,) in alone]


@torch.no_grad()
def test_padding_of_either_side_changes_nothing_in_a_converted_model():
    found, pairs = random_model(encoder_layers=2), sentences(8, 6)
    attend(found, dict.fromkeys(attention_sites(found), KERNELS["dimensionwise"]))
    found = adopt(found).eval()
    sides = Sides(found, tokenizer(), pairs, 24)
    together, alone = (translation_loss(found, sides, batch).sums for batch in (8, 1))
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_from_python_with_pairs_of_ones_own():
    found, pairs = random_model(), sentences(6, 2)
    made = evaluate("translation", found, tokenizer(), pairs, beams=1, max_length=24)
    assert made["metric"] == "BLEU" and made["models"][0]["n"] == 6
    with pytest.raises(Usage, match="no sentence pairs"):
        evaluate("translation", found, tokenizer(), [])
    with pytest.raises(Usage, match="does not fit"):
        evaluate("translation", pico("gpt2", "lm"), tokenizer(), pairs)


def test_cut_pairs_are_told_and_are_other_examples():
    pairs = sentences(6, 6)
    found = [
        evaluate("translation", random_model(), tokenizer(), pairs, max_length=length, beams=1)
        for length in (24, 32, 3)
    ]
    marks = [each["models"][0]["examples"]["sha256"] for each in found]
    assert marks[0] == marks[1] != marks[2] and not found[0]["warnings"]
    sources, targets = found[2]["warnings"]
    assert re.match(r"\d of the 6 sources are cut at 3 tokens", sources)
    assert re.match(r"\d of the 6 translations are cut at 3 tokens", targets)


def test_a_tokenizer_without_padding_pads_with_its_end():
    found, read = random_model(), tokenizer()
    read.pad_token = None
    settings = generation(found, read, 2, 9)
    assert settings.pad_token_id == 2 and settings.bad_words_ids is None
    pairs = sentences(5, 4)
    sides = Sides(found, read, pairs, 24)
    with torch.no_grad():
        part = sides.part([0, 1, 2])
        logits = found(
            **{k: v for k, v in part.sources.inputs.items() if k != "token_type_ids"},
            labels=part.ids.masked_fill(~part.wanted, -100),
        ).logits[part.wanted]
    by_hand = cross_entropy(logits, part.ids[part.wanted], reduction="sum")
    assert translation_loss(found, sides).sums[:3].sum() == pytest.approx(float(by_hand), rel=1e-4)
