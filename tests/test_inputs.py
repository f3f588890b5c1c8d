"""What reaches a model is what it reads of each text alone: padding and end tokens."""

import json

import numpy as np
import pytest
import torch
from conftest import pico, sentences, word_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tlmtool.cli import run
from tlmtool.data.batching import batches
from tlmtool.data.labelled import Example
from tlmtool.failure import Usage
from tlmtool.measuring.comparison import probe
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.inputs import inputs_of
from tlmtool.measuring.predictions import predictions
from tlmtool.models import checkpoint
from tlmtool.tasks.table import TASKS
from tlmtool.training.objectives import Labelled

FIGURE = TASKS["regression"]
EXAMPLES = [Example(text, None, float(k)) for k, text in enumerate(sentences(23))]
DECODERS = ("gpt2", "opt", "llama", "qwen2")
PADS = {
    "another": (5, "[PAD]", False),
    "none": (None, "[PAD]", False),
    "none anywhere": (None, None, False),
    "none, and an end": (None, None, True),
    "the end": (3, "[SEP]", True),
    "not in use": (-1, "[PAD]", False),
    "no padding of the tokenizer": (5, None, True),
}


def tokens(pad, special=True):
    """A tokenizer that pads with this token."""
    tokenizer = word_tokenizer(pad=False, special=special)
    tokenizer.pad_token = pad
    return tokenizer


@torch.no_grad()
def alone(model, tokenizer, examples):
    """What transformers makes of each text by itself: its first output."""
    read = [tokenizer(each.first, return_tensors="pt") for each in examples]
    read = [{k: v for k, v in each.items() if k != "token_type_ids"} for each in read]
    return np.array([float(model(**each).logits[0, 0]) for each in read])


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("family", DECODERS)
def test_a_score_head_reads_the_last_token_of_each_text_at_any_batch(family, pads):
    own, theirs, special = PADS[pads]
    tokenizer = tokens(theirs, special)
    model = pico(family, "classification", num_labels=1, eos_token_id=3, pad_token_id=1)
    model.config.pad_token_id = own
    expected = alone(model, tokenizer, EXAMPLES)
    for batch in (1, 5, 80):
        found = predictions(model, tokenizer, FIGURE, EXAMPLES, batch=batch)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert model.config.pad_token_id == own


@pytest.mark.parametrize("pads", ["another", "none", "the end"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_learns_from_the_last_token_of_each_text(family, pads):
    own, theirs, special = PADS[pads]
    tokenizer = tokens(theirs, special)
    model = pico(family, "classification", num_labels=1, pad_token_id=1)
    model.config.pad_token_id = own
    expected = (alone(model, tokenizer, EXAMPLES) - [each.label for each in EXAMPLES]) ** 2
    objective = Labelled(model, tokenizer, FIGURE, EXAMPLES, [], 64)
    with torch.no_grad():
        found = objective.loss(model, model, objective.part([*range(len(EXAMPLES))], 0))
    assert float(found) == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize("pad", [None, "[SEP]", "[PAD]"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_head_of_the_end_token_is_not_misled_by_padding(family, pad):
    model = pico(family, "classification", num_labels=1, eos_token_id=3)
    for own in (model.config.pad_token_id, 3):
        model.config.pad_token_id = own
        expected = alone(model, tokens(pad), EXAMPLES)
        found = predictions(model, tokens(pad), FIGURE, EXAMPLES, batch=80)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    odd = [*EXAMPLES, Example("the [SEP] cat", None, 0.0)]  # one text with two of them
    with pytest.raises(Usage, match="cannot read these texts together"):
        predictions(model, tokens(pad), FIGURE, odd, batch=80)


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def labelled(file, count=40):
    lines = [f"{text},{k % 2}" for k, text in enumerate(sentences(count))]
    file.write_text("\n".join(["text,label", *lines]) + "\n")
    return str(file)


@pytest.mark.parametrize("pad", [None, "[PAD]", "[SEP]"])
def test_what_pads_in_other_libraries_is_what_a_trained_head_skips(tmp_path, pad):
    """The checkpoint that comes out, in a pipeline of transformers, in batches."""
    tokenizer = tokens(pad, special=False)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    name = saved(tmp_path / "m", pico("gpt2", "lm", pad_token_id=5), tokenizer)
    data, out = labelled(tmp_path / "d.csv"), tmp_path / "o"
    flags = ["--task", "classification", "--data", data, "--steps", "3", "--lr", "0.01", "-q"]
    assert run(["finetune", name, *flags, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert "which the head skips" in " ".join(report["warnings"])
    read = AutoTokenizer.from_pretrained(out)
    read.pad_token = read.pad_token or read.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(out)
    asked = {"tokenizer": read, "device": "cpu", "top_k": None}
    given = [pipeline("text-classification", model=model, **asked, batch_size=n) for n in (1, 16)]
    texts = sentences(16)
    one, many = ([sorted((y["label"], y["score"]) for y in x) for x in p(texts)] for p in given)
    for a, b in zip(one, many, strict=True):
        assert [score for _, score in a] == pytest.approx([score for _, score in b], abs=1e-6)


def test_a_head_that_was_trained_skips_what_it_did_and_the_difference_is_said(tmp_path, capsys):
    model = pico("gpt2", "classification", pad_token_id=5)
    name, data = saved(tmp_path / "m", model, tokens("[PAD]")), labelled(tmp_path / "d.csv")
    asked = ["--task", "classification", "--data", data]
    assert run(["finetune", name, *asked, "--steps", "1", "--out", str(tmp_path / "o"), "-q"]) == 0
    assert checkpoint.load(tmp_path / "o").config.pad_token_id == 5
    capsys.readouterr()
    assert run(["evaluate", name, *asked, "--json", "-q"]) == 0
    said = json.loads(capsys.readouterr().out)["warnings"]
    assert any("skips token 5 as padding, its tokenizer pads with 0" in each for each in said)


def test_a_head_without_padding_goes_through_every_verb(tmp_path, capsys):
    model = pico("gpt2", "classification")
    model.config.pad_token_id = None
    name, data = saved(tmp_path / "m", model, tokens(None)), labelled(tmp_path / "d.csv")
    (tmp_path / "t.txt").write_text("\n".join(sentences(40)) + "\n")
    text, task = str(tmp_path / "t.txt"), ["--task", "classification", "--data", data]
    small = [str(tmp_path / "small"), "--rank", "4", "--calibration", text]
    taught = ["--teacher", name, "--steps", "1", "--train", "all"]
    for line in (
        ["evaluate", name, *task],
        ["compress", name, "--out", *small, "--recover", "1", "--data", text],
        ["merge", str(tmp_path / "small"), "--out", str(tmp_path / "merged")],
        ["finetune", name, *task, *taught, "--out", str(tmp_path / "a")],
        ["finetune", name, "--data", text, *taught, "--out", str(tmp_path / "b")],
        ["finetune", name, *task, "--steps", "1", "--out", str(tmp_path / "c")],
    ):
        assert run([*line, "-q"]) == 0, (line, capsys.readouterr().err)
    assert probe(model).isfinite().all() and model.config.pad_token_id is None


def test_several_end_tokens_and_no_padding_go_through_every_verb(tmp_path, capsys):
    model = pico("llama", "lm", eos_token_id=[2, 3], pad_token_id=None)
    name = saved(tmp_path / "m", model, tokens(None))
    (tmp_path / "t.txt").write_text("\n".join(sentences(40)) + "\n")
    text = str(tmp_path / "t.txt")
    for line in (
        ["evaluate", name, "--task", "clm", "--data", text],
        ["compress", name, "--out", str(tmp_path / "o"), "--rank", "4", "--calibration", text],
    ):
        assert run([*line, "-q"]) == 0, (line, capsys.readouterr().err)
    scores = [
        evaluate("clm", pico("llama", "lm", **more), tokens(None), sentences(9))["models"][0]
        for more in ({"eos_token_id": [2, 3], "pad_token_id": None}, {})
    ]
    assert scores[0]["score"] == pytest.approx(scores[1]["score"], rel=1e-5)
    two = pico("bart", "classification", num_labels=1, eos_token_id=3)
    two.config.eos_token_id, two.config.pad_token_id = [3, 2], 3
    part = next(batches(tokens("[PAD]"), sentences(9), 9))
    padding = inputs_of(two, part)["input_ids"][part.inputs["attention_mask"] == 0]
    assert len(padding) and not {2, 3} & {*padding.tolist()}
