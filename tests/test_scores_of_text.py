"""Printed losses, similarities, feature errors and BLEU are what plain loops and sacrebleu give."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import pico, sentences, word_tokenizer
from front_door import tlm, told
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from torch.nn.functional import log_softmax
from transformers import PreTrainedTokenizerFast

from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.intervals import FEW, RESAMPLES

TEXTS = sentences(30)
ENDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}


def saved(folder, model):
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def ids(text: str) -> torch.Tensor:
    return word_tokenizer()(text, return_tensors="pt")["input_ids"]


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


def printed(capsys, words: list, *figures: str) -> None:
    assert tlm(*words, "-q") == 0
    assert set(figures) <= {*capsys.readouterr().out.split()}


@torch.no_grad()
def test_the_loss_of_next_tokens(tmp_path, data, capsys):
    models, losses = [pico("gpt2", "lm", seed) for seed in (0, 1)], []
    for model in models:
        logs = (log_softmax(model(input_ids=ids(text)).logits[0].double(), -1) for text in TEXTS)
        pairs = zip(logs, map(ids, TEXTS), strict=True)
        each = [-log[:-1].gather(1, tokens[0, 1:, None]) for log, tokens in pairs]
        losses.append(float(torch.cat(each).mean()))
    folders = [saved(tmp_path / f"m{i}", model) for i, model in enumerate(models)]
    words = ["evaluate", folders[0], "--task", "clm", "--data", data, "--baseline", folders[1]]
    found = told(capsys, *words)
    first, second = found["models"][0], found["baseline"]
    assert [first["score"], second["score"]] == pytest.approx(losses, rel=1e-6)
    assert first["perplexity"] == pytest.approx(math.exp(losses[0]), rel=1e-5)
    assert first["tokens"] == sum(ids(text).shape[1] - 1 for text in TEXTS)
    assert second["difference"] == pytest.approx(losses[0] - losses[1], rel=1e-5)
    assert found["better"] == "lower" and first["n"] == len(TEXTS)
    printed(capsys, words, f"{losses[0]:.4f}", f"{losses[1]:.4f}")


def test_the_loss_of_masked_tokens(tmp_path, capsys):
    """Of a model that gives each token the same chances everywhere: only who is masked counts."""
    model = pico("bert", "lm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.cls.predictions.bias.copy_(torch.linspace(-3, 3, 99))
    chances = -log_softmax(torch.linspace(-3, 3, 99).double(), -1)
    texts = ["cat " * 6, "mat " * 6, "dogs " * 20]  # 15 % are 1, 1 and 3 tokens
    nll = [float(chances[ids(text)[0, 1]]) for text in texts]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    loss = (nll[0] + nll[1] + 3 * nll[2]) / 5
    folder = saved(tmp_path / "model", model)
    words = ["evaluate", folder, "--task", "mlm", "--data", tmp_path / "texts.txt"]
    (found,) = told(capsys, *words)["models"]
    assert found["score"] == pytest.approx(loss, rel=1e-6) and found["tokens"] == 5
    printed(capsys, words, f"{loss:.4f}")


@torch.no_grad()
def states(model, text: str) -> torch.Tensor:
    return model(input_ids=ids(text)).last_hidden_state[0].double()


def test_similarity(tmp_path, capsys):
    draw, folders, wanted = np.random.default_rng(0), [], []
    pairs = list(zip(TEXTS, TEXTS[7:] + TEXTS[:7], strict=True))
    scores = draw.random(len(pairs)).round(3)
    for seed in (0, 1):
        model = pico("bert", seed=seed)
        means = [[states(model, text).mean(0) for text in pair] for pair in pairs]
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in means]
        wanted.append(float(spearmanr(cosines, scores).statistic))
        folders.append(saved(tmp_path / f"m{seed}", model))
    rows = [f"{a},{b},{score}" for (a, b), score in zip(pairs, scores, strict=True)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    words = ["evaluate", folders[0], "--task", "similarity", "--data", tmp_path / "pairs.csv"]
    words += ["--baseline", folders[1]]
    found = told(capsys, *words)
    line = found["baseline"]
    assert [found["models"][0]["score"], line["score"]] == pytest.approx(wanted, abs=1e-9)
    assert line["difference"] == pytest.approx(wanted[0] - wanted[1], abs=1e-9)
    assert found["better"] == "higher"
    printed(capsys, words, f"{wanted[0]:.4f}", f"{wanted[1]:.4f}")


def test_the_error_of_features(tmp_path, data, capsys):
    model, truth = pico("bert"), pico("bert", seed=1)
    wrong = sum(float((states(model, t) - states(truth, t)).square().sum()) for t in TEXTS)
    error = math.sqrt(wrong / sum(float(states(truth, t).square().sum()) for t in TEXTS))
    folders = [saved(tmp_path / name, m) for name, m in (("model", model), ("truth", truth))]
    words = ["evaluate", folders[0], "--task", "features", "--data", data, "--against", folders[1]]
    found = told(capsys, *words)
    assert found["models"][0]["score"] == pytest.approx(error, rel=1e-5)
    assert found["better"] == "lower"
    printed(capsys, words, f"{error:.4f}")


def swapped(model, tokenizer) -> tuple:
    """The same model, to which two words are each other's numbers, and its tokenizer."""
    other, kept = copy.deepcopy(model), json.loads(tokenizer.backend_tokenizer.to_str())
    words = kept["model"]["vocab"]
    first, second = words["the"], words["cat"]
    words["the"], words["cat"] = second, first
    for table in (other.model.shared.weight.data, other.final_logits_bias.T):
        table[[first, second]] = table[[second, first]]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(kept)), **tokenizer.special_tokens_map
    )
    return other, made


def test_bleu(tmp_path, capsys):
    """Of references that are what a model says, with some words changed."""
    sacrebleu = pytest.importorskip("sacrebleu")
    model, length = pico("marian", "lm", vocab_size=16, **ENDS), 12
    settings = {"num_beams": 2, "do_sample": False, "max_new_tokens": length}
    settings |= {"forced_eos_token_id": 3, "bad_words_ids": [[0]]}
    made = [model.generate(ids(text), **settings, **ENDS)[0] for text in TEXTS]
    said = [word_tokenizer().decode(each, skip_special_tokens=True) for each in made]
    true = [
        " ".join("far" if (i + k) % 5 == 0 else word for k, word in enumerate(text.split())) or "on"
        for i, text in enumerate(said)
    ]
    wanted = sacrebleu.corpus_bleu(said, [true]).score
    assert 20 < wanted < 90
    for side, lines in (("en", TEXTS), ("de", true)):
        (tmp_path / f"dev.{side}").write_text("\n".join(lines) + "\n")
    folders = [saved(tmp_path / "model", model), tmp_path / "other"]
    for each in swapped(model, word_tokenizer()):  # a baseline is read by its own tokenizer
        each.save_pretrained(folders[1])
    words = ["evaluate", folders[0], "--task", "translation", "--beams", 2, "--data", tmp_path]
    words += ["--languages", "en-de", "--max-length", length, "--baseline", folders[1]]
    found = told(capsys, *words)
    assert found["models"][0]["score"] == pytest.approx(wanted, abs=1e-6)
    assert found["baseline"]["score"] == pytest.approx(wanted, abs=1e-6)
    printed(capsys, words, f"{wanted:.2f}")


def test_an_interval_of_many_texts_is_of_resamples_that_a_seed_draws():
    models, texts = [pico("gpt2", "lm", seed) for seed in (0, 1)], sentences(FEW)
    given = ("clm", models[0], word_tokenizer(), texts)
    lines = [evaluate(*given, baseline=models[1], seed=seed)["baseline"] for seed in (0, 0, 1)]
    assert all(line["resamples"] == RESAMPLES for line in lines)
    ends = [line["interval"] for line in lines]
    assert ends[0] == ends[1] != ends[2]
    few = evaluate(*given[:3], texts[1:], baseline=models[1])["baseline"]
    assert "resamples" not in few


def test_texts_are_cut_for_the_model_that_reads_least():
    models = [pico("gpt2", "lm"), pico("gpt2", "lm", n_positions=6)]
    for model, other in (models, models[::-1]):
        found = evaluate("clm", model, word_tokenizer(), TEXTS, baseline=other)
        assert found["max_length"] == 6
        assert found["models"][0]["tokens"] == sum(min(6, ids(t).shape[1]) - 1 for t in TEXTS)
