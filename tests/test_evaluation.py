"""Scores against closed forms and plain loops on pico models; padding does not matter."""

import math
import random

import pytest
import torch
from conftest import WORDS, word_tokenizer
from scipy.stats import spearmanr
from test_losses import BERT, BUILD, LLAMA, T5, TEXTS, bert, pico, task_of
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from tlmtool.failure import Failure, Usage
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.outputs import hidden_states, position_limit, relative_error

PAIRS = [
    ("the cat sat", "a cat sat on the mat", 4.0),
    ("dogs ran", "dogs ran far away", 4.5),
    ("the mat", "dogs", 0.5),
    ("a cat and dogs", "the cat ran", 2.0),
    ("far away", "on a mat", 0.5),
    ("the", "a", 3.0),
]


@pytest.mark.parametrize("kind", BUILD)
def test_hidden_states_do_not_see_padding(kind):
    model, tokenizer = pico(kind), word_tokenizer()
    alone = hidden_states(model, tokenizer, TEXTS, batch=1)
    together = hidden_states(model, tokenizer, TEXTS, batch=5)
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert [tuple(state.shape) for state in together] == [(n, 32) for n in lengths]
    assert relative_error(together, alone) < 1e-5
    assert not any(state.requires_grad for state in together) and model.training


def test_hidden_states_of_an_encoder_decoder_are_the_decoders():
    model, tokenizer = pico("seq2seq").eval(), word_tokenizer()
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    found = hidden_states(model, tokenizer, TEXTS[:1])[0]
    shifted = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
    out = model(input_ids=ids, decoder_input_ids=shifted, output_hidden_states=True)
    torch.testing.assert_close(found, out.decoder_hidden_states[-1][0])
    encoder = T5EncoderModel(T5Config(**T5))
    assert hidden_states(encoder, tokenizer, TEXTS[:1])[0].shape == found.shape


def test_relative_error_by_hand():
    a, b = (
        [torch.tensor([3.0, 0.0]), torch.tensor([1.0])],
        [torch.tensor([0.0, 4.0]), torch.zeros(1)],
    )
    assert relative_error(a, b) == pytest.approx(math.sqrt(26) / 4)
    assert relative_error(b[0], b[0]) == 0


def test_feature_error_is_that_of_the_hidden_states():
    tokenizer, model, truth = word_tokenizer(), bert(0), bert(1)
    result = evaluate("features", model, tokenizer, TEXTS, against=truth, baseline=truth, batch=2)
    states = [hidden_states(each, tokenizer, TEXTS) for each in (model, truth)]
    assert result["models"][0]["score"] == pytest.approx(relative_error(*states), rel=1e-4)
    assert result["baseline"]["score"] == 0
    assert result["baseline"]["difference"] == result["models"][0]["score"]


def test_similarity_is_scipys_spearman_of_mean_pooled_cosines():
    model, tokenizer = bert().eval(), word_tokenizer()
    draw = random.Random(0)
    sentence = lambda: " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))  # noqa: E731
    pairs = [(sentence(), sentence(), draw.random()) for _ in range(60)]
    cosines = []
    with torch.no_grad():
        for left, right, _ in pairs:
            tokens = [tokenizer(text, return_tensors="pt") for text in (left, right)]
            a, b = (model(**one).last_hidden_state[0].double().mean(0) for one in tokens)
            cosines.append((a @ b / a.norm() / b.norm()).item())
    expected = spearmanr(cosines, [score for *_, score in pairs]).statistic
    found = evaluate("similarity", model, tokenizer, pairs)  # batches of 32, padded
    assert found["models"][0]["score"] == pytest.approx(expected, abs=1e-12)
    assert found["better"] == "higher" and found["models"][0]["n"] == 60


@pytest.mark.parametrize("kind", ["mlm", "gpt", "similarity"])
def test_the_interval_holds_the_difference_and_repeats(kind):
    tokenizer = word_tokenizer()
    if kind == "similarity":
        call = ("similarity", bert(0), tokenizer, PAIRS * 11)
        other = bert(1)
    else:
        call, other = (task_of(kind), pico(kind, 0), tokenizer, TEXTS * 13), pico(kind, 1)
    result = evaluate(*call, baseline=other, seed=5)
    line = result["baseline"]
    assert line["interval"][0] <= line["difference"] <= line["interval"][1]
    assert line["interval"][0] < line["interval"][1] and line["resamples"] == 2000
    assert line["difference"] == result["models"][0]["score"] - line["score"] != 0
    assert evaluate(*call, baseline=other, seed=5) == result
    same = evaluate(*call, baseline=call[1])["baseline"]
    assert same["difference"] == 0 and same["interval"] == [0, 0]


def test_progress_reaches_the_total():
    calls = []
    model, tokenizer = bert(), word_tokenizer()
    evaluate(
        "similarity", model, tokenizer, PAIRS, baseline=model, progress=lambda *c: calls.append(c)
    )
    assert calls[-1] == (24, 24) and [done for done, _ in calls] == sorted(
        done for done, _ in calls
    )
    calls.clear()
    model, texts = pico("gpt"), ["the cat sat on a mat"] * 7  # of six tokens, in blocks of 8
    settings = {"batch": 2, "max_length": 8, "pack": True}
    evaluate("clm", model, tokenizer, texts, **settings, progress=lambda *c: calls.append(c))
    assert calls[-1] == (7, 7) and len(calls) == 3


def test_a_folder_of_texts_is_read_as_finetune_reads_it(tmp_path):
    (tmp_path / "train.txt").write_text("a cat\n" * 20)
    (tmp_path / "valid.txt").write_text("the dogs ran far away\nthe cat sat on a mat\n")
    model, tokenizer = pico("gpt"), word_tokenizer()
    found = evaluate("clm", model, tokenizer, tmp_path)
    assert found["models"][0]["n"] == 2
    assert found == evaluate("clm", model, tokenizer, tmp_path / "valid.txt")


def test_texts_are_cut_to_the_position_table():
    model, tokenizer = bert(), word_tokenizer()
    result = evaluate("features", model, tokenizer, ["cat " * 60], against=model, max_length=64)
    assert result["max_length"] == 40 and result["models"][0]["score"] == 0
    assert position_limit(LlamaForCausalLM(LlamaConfig(**LLAMA))) is None
    assert position_limit(pico("seq2seq")) is None


def test_wrong_tasks_are_refused_naming_the_head():
    model, tokenizer = bert(), word_tokenizer()
    with pytest.raises(Usage, match="BertModel has no language-model head"):
        evaluate("mlm", model, tokenizer, TEXTS)
    with pytest.raises(Usage, match="a masked-language-model head"):
        evaluate("clm", pico("mlm"), tokenizer, TEXTS)
    with pytest.raises(Usage, match="a sequence-to-sequence head"):
        evaluate("mlm", pico("seq2seq"), tokenizer, TEXTS)
    with pytest.raises(Usage, match="different losses"):
        evaluate("clm", pico("gpt"), tokenizer, TEXTS, baseline=pico("seq2seq"))
    with pytest.raises(Usage, match="needs a model"):
        evaluate("features", model, tokenizer, TEXTS)
    with pytest.raises(Usage, match="unknown"):
        evaluate("bleu", model, tokenizer, TEXTS)
    with pytest.raises(Usage, match="can be predicted"):
        evaluate("clm", pico("gpt"), word_tokenizer(special=False), ["cat", "mat"])


def test_what_is_not_finite_is_a_failure():
    tokenizer = word_tokenizer()
    for kind in BUILD:
        model = pico(kind)
        with torch.no_grad():
            model.get_input_embeddings().weight.fill_(float("nan"))
        with pytest.raises(Failure, match="not finite on 5 of 5"):
            evaluate(task_of(kind), model, tokenizer, TEXTS)
    broken = bert()
    with torch.no_grad():
        broken.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(Failure, match="not finite"):
        evaluate("similarity", broken, tokenizer, PAIRS)
    with pytest.raises(Failure, match="not finite"):
        evaluate("features", bert(), tokenizer, TEXTS, against=broken)
    with pytest.raises(Failure, match="all scores are equal"):
        evaluate("similarity", bert(), tokenizer, [(a, b, 1.0) for a, b, _ in PAIRS])


def test_a_foreign_tokenizer_is_refused():
    model = BertModel(BertConfig(**{**BERT, "vocab_size": 8}))
    with pytest.raises(Usage, match="has 8 tokens"):
        hidden_states(model, word_tokenizer(), TEXTS)


def test_scores_are_of_the_same_examples_unless_texts_are_cut():
    model, tokenizer = bert(), word_tokenizer()

    def mark(task, examples, length, **more):
        found = evaluate(task, model, tokenizer, examples, max_length=length, **more)
        return found["models"][0]["examples"]["sha256"]

    for task, examples, more in (
        ("similarity", PAIRS, {}),
        ("features", [text for text, *_ in PAIRS], {"against": model}),
    ):
        whole, longer, cut = (mark(task, examples, n, **more) for n in (16, 32, 4))
        assert whole == longer != cut
