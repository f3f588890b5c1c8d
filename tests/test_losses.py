"""Losses against closed forms and transformers' own; batching and order do not matter."""

import math

import conftest
import numpy as np
import pytest
import torch
from conftest import CONFIGS, word_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)

from tlmtool.data.batching import batches
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.losses import language_loss, masked, objective_of
from tlmtool.measuring.outputs import logits_at

V = 16
WIDE = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**WIDE, "intermediate_size": 64, "max_position_embeddings": 40}
LLAMA = {**WIDE, "intermediate_size": 64, "num_key_value_heads": 2, "eos_token_id": 3}
GPT2 = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
ENDS = {"bos_token_id": 2, "eos_token_id": 3}
T5 = {"vocab_size": V, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BUILD = {
    "mlm": lambda: BertForMaskedLM(BertConfig(**BERT)),
    "gpt": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, **ENDS)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "seq2seq": lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
}
TEXTS = [
    "the cat sat on a mat",
    "dogs",
    "the dogs ran far away and sat",
    "a cat and the dogs",
    "on",
]


def pico(kind, seed: int = 0):
    torch.manual_seed(seed)
    model = BUILD[kind]() if isinstance(kind, str) else kind
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()


def bert(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    return pico(BertModel(BertConfig(**BERT)), seed)


def task_of(kind: str) -> str:
    return "mlm" if kind == "mlm" else "clm"


def test_the_objective_is_that_of_the_head():
    assert [objective_of(pico(kind)) for kind in BUILD] == ["mlm", "clm", "clm", "seq2seq"]
    config = BertConfig(**BERT)
    headless = [
        BertModel(config),
        BertForSequenceClassification(config),
        GPT2Model(GPT2Config(**GPT2, **ENDS)),
        T5Model(T5Config(**T5)),
        torch.nn.Linear(2, 2),
    ]
    assert [objective_of(model) for model in headless] == [None] * 5
    subclass = type("Converted", (GPT2LMHeadModel,), {})
    assert objective_of(subclass(GPT2Config(**GPT2, **ENDS))) == "clm"


@pytest.mark.parametrize("kind", BUILD)
def test_uniform_logits_lose_log_v(kind):
    model = BUILD[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    result = evaluate(task_of(kind), model, word_tokenizer(), TEXTS)
    assert result["models"][0]["score"] == pytest.approx(math.log(V), rel=1e-6)
    assert result["models"][0]["perplexity"] == pytest.approx(V, rel=1e-5)


@pytest.mark.parametrize("kind", BUILD)
def test_losses_depend_on_no_batch_and_leave_the_mode(kind):
    model, tokenizer = pico(kind), word_tokenizer()
    alone = language_loss(model, tokenizer, TEXTS, batch=1, seed=3)
    together = language_loss(model, tokenizer, TEXTS, batch=5, seed=3)
    assert np.array_equal(alone.counts, together.counts)
    np.testing.assert_allclose(alone.sums, together.sums, rtol=2e-5)
    assert model.training


def test_next_token_loss_is_that_of_transformers():
    model, tokenizer = pico("gpt"), word_tokenizer(pad=False)
    loss = language_loss(model, tokenizer, TEXTS)
    model.eval()
    for text, total, count in zip(TEXTS, loss.sums, loss.counts, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert count == ids.shape[1] - 1
        assert total / count == pytest.approx(
            model(input_ids=ids, labels=ids).loss.item(), rel=1e-5
        )


def test_reconstruction_loss_is_that_of_transformers():
    model, tokenizer = pico("seq2seq"), word_tokenizer()
    loss = language_loss(model, tokenizer, TEXTS)
    model.eval()
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    expected = model(input_ids=ids, labels=ids).loss.item()
    assert loss.sums[0] / loss.counts[0] == pytest.approx(expected, rel=1e-5)
    assert "reconstruction" in evaluate("clm", model, tokenizer, TEXTS)["what"]


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_head_that_sees_few_tokens_says_the_same_of_them(family):
    model = conftest.pico(family, "lm")
    given = conftest.inputs(model)
    places = torch.rand(given["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.4
    whole = model(**given).logits[places]
    parameters = [p for p in model.parameters() if p.requires_grad]
    few = logits_at(model, model, given, places)
    torch.testing.assert_close(few, whole, rtol=1e-5, atol=1e-6)
    gradients = (
        torch.autograd.grad(each.square().sum(), parameters, allow_unused=True)
        for each in (whole, few)
    )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(**given).logits[places], whole)  # nothing stays behind


def test_masks_are_seeded_and_15_80_10_10():
    tokenizer = word_tokenizer()
    long = [" ".join(["cat"] * 100)] * 200
    parts = list(batches(tokenizer, long, 64, 128))
    drawn = [masked(part, tokenizer, 0) for part in parts]
    for part, (ids, chosen) in zip(parts, drawn, strict=True):
        assert (chosen.sum(1) == 15).all() and not (chosen & part.special).any()
        assert (ids == part.inputs["input_ids"])[~chosen].all()
    ids = torch.cat([ids[chosen] for ids, chosen in drawn])
    assert len(ids) == 3000
    original = tokenizer.convert_tokens_to_ids("cat")
    assert (ids == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8 + 0.1 / V, abs=0.03)
    assert (ids == original).float().mean() == pytest.approx(0.1 + 0.1 / V, abs=0.03)
    (one,), (two,) = (list(batches(tokenizer, long[:3], 8)) for _ in range(2))
    assert all(map(torch.equal, masked(one, tokenizer, 1), masked(two, tokenizer, 1)))
    assert not torch.equal(masked(one, tokenizer, 1)[1], masked(one, tokenizer, 2)[1])
    assert masked(next(batches(tokenizer, ["a"])), tokenizer, 0)[1].sum() == 1  # one at least
