"""What reaches a model is what it reads of each text alone: padding, token types, odd tables."""

import json

import numpy as np
import pytest
import torch
from conftest import WORDS, pico, sentences, word_tokenizer
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
from tlmtool.tasks.table import Task
from tlmtool.training.distilling import Distilled
from tlmtool.training.objectives import Labelled, Language, Objective

FIGURE = Task("regression", "regression", (), ("pearson", "spearman"))
EXAMPLES = [Example(text, None, float(k)) for k, text in enumerate(sentences(23))]
DECODERS = ("gpt2", "opt", "llama", "qwen2")
# {name: (padding of config.json, of the tokenizer, whether a text ends with the end token)}
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


# ---- token types


def typed(tokenizer):
    """Gives token types: those of the second text are 1."""
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_decoder_gets_no_token_types_on_any_path(family):
    with_types, without = typed(word_tokenizer()), word_tokenizer()
    without.model_input_names = ["input_ids", "attention_mask"]
    model, texts = pico(family, "lm"), [*sentences(12), " ".join(WORDS)]
    ids = [torch.tensor([without(text)["input_ids"]]) for text in texts]
    with torch.no_grad():
        found = [(model(input_ids=each).logits[0, :-1], each[0, 1:]) for each in ids]
    losses = [torch.nn.functional.cross_entropy(*each, reduction="sum") for each in found]
    expected = float(sum(losses)) / sum(each.shape[1] - 1 for each in ids)
    got = evaluate("clm", model, with_types, texts)["models"][0]["score"]
    assert got == pytest.approx(expected, rel=1e-5)
    for pack in (False, True):
        trained = [Language(model, t, texts, [], 16, 0, pack) for t in (with_types, without)]
        everything = [*range(len(trained[0].lengths))]
        with torch.no_grad():
            sums = [float(x.loss(model, model, x.part(everything, 0))) for x in trained]
        assert sums[0] == sums[1]


def test_encoders_get_the_types_that_they_have(capsys):
    pairs = [("the cat", "dogs ran"), ("a mat", "far away the cat")]
    tokenizer = typed(word_tokenizer())
    one, two = zip(*pairs, strict=True)
    part = next(batches(tokenizer, [*one], 2, None, [*two]))
    kinds = torch.zeros_like(part.inputs["input_ids"])
    kinds[:, 3:] = 1  # as a tokenizer for pairs gives them
    part = part._replace(inputs=part.inputs | {"token_type_ids": kinds})
    for family, types in (("bert", 2), ("electra", 2), ("roberta", 1), ("distilbert", None)):
        more = {} if types is None else {"type_vocab_size": types}
        model = pico(family, **more)
        given = inputs_of(model, part)
        assert ("token_type_ids" in given) == (types == 2), family
        model(**given)
    wrong = part._replace(inputs=part.inputs | {"token_type_ids": 2 * kinds})
    with pytest.raises(Usage, match=r"token type 2; .* has 2 types"):
        inputs_of(pico("bert"), wrong)


def test_a_tokenizer_that_gives_a_decoder_token_types_is_named(tmp_path, capsys):
    name = saved(tmp_path / "m", pico("gpt2", "lm"), word_tokenizer())
    file = tmp_path / "m" / "tokenizer_config.json"
    kept = json.loads(file.read_text())
    kept["model_input_names"] = typed(word_tokenizer()).model_input_names
    file.write_text(json.dumps(kept))
    (tmp_path / "t.txt").write_text("\n".join(sentences(40)) + "\n")
    flags = ["--task", "clm", "--data", str(tmp_path / "t.txt"), "--json", "-q"]
    assert run(["evaluate", name, *flags]) == 0
    said = " ".join(json.loads(capsys.readouterr().out)["warnings"])
    assert "gives token_type_ids, for which the model has no table" in said


# ---- tables that are not as large as the tokenizer


def beyond():
    """A tokenizer whose padding token was added just beyond a table of as many words."""
    tokenizer = word_tokenizer(pad=False)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id == rows
    return tokenizer, rows


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "roberta"])
def test_padding_just_beyond_the_table_is_padding(family, tmp_path, capsys):
    tokenizer, rows = beyond()
    model = pico(family, "lm", vocab_size=rows)
    name, texts = saved(tmp_path / "m", model, tokenizer), sentences(40)
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    task = "mlm" if family in ("bert", "roberta") else "clm"
    same = evaluate(task, model, word_tokenizer(pad=False), texts)["models"][0]["score"]
    assert evaluate(task, model, tokenizer, texts)["models"][0]["score"] == same
    if family in ("roberta", "llama"):
        return
    text, data = str(tmp_path / "t.txt"), labelled(tmp_path / "d.csv")
    encoder = (
        ["finetune", name, "--task", task, "--data", text, "--steps", "1"],
        ["compress", name, "--rank", "4", "--sites", "all", "--calibration", text],
    )
    decoder = (["finetune", name, "--task", "classification", "--data", data, "--steps", "1"],)
    for line in encoder if task == "mlm" else decoder:
        assert run([*line, "--out", str(tmp_path / "o"), "--overwrite", "-q"]) == 0, (
            capsys.readouterr().err
        )
        checkpoint.load(tmp_path / "o")


def test_a_translation_pads_within_the_table(tmp_path, capsys):
    tokenizer, rows = beyond()
    name = saved(tmp_path / "m", pico("bart", "lm", vocab_size=rows, eos_token_id=3), tokenizer)
    lines = [f"{text},{text}" for text in sentences(30)]
    (tmp_path / "p.csv").write_text("\n".join(["source,target", *lines]) + "\n")
    flags = ["--task", "translation", "--data", str(tmp_path / "p.csv"), "--languages", "en-de"]
    for line in (["evaluate"], ["finetune", "--steps", "1", "--out", str(tmp_path / "o")]):
        line = [line[0], name, *flags, "--beams", "1", *line[1:], "-q"]
        assert run(line) == 0, capsys.readouterr().err


@pytest.mark.parametrize("head", ["base", "lm"])
@pytest.mark.parametrize("rows", [(20, 32), (32, 20)])
def test_tables_padded_to_other_sizes_teach_what_both_have(head, rows):
    student, teacher = (pico("llama", head, k, vocab_size=n) for k, n in enumerate(rows))
    tokenizer = word_tokenizer()
    plain = Objective(student, tokenizer, sentences(8), None, 64)
    both = Distilled(student, teacher, plain, None, 2.0, False)
    assert both.heads(student) == (head == "lm")
    cut = [pico("llama", head, k, vocab_size=n) for k, n in enumerate(rows)]
    part = both.part([*range(8)], 0)
    with torch.no_grad():
        found = float(both.loss(student, student, part))
        for model in cut:  # the same with tables of one size
            model.resize_token_embeddings(min(rows), mean_resizing=False)
        same = Distilled(*cut, plain, None, 2.0, False)
        assert found == pytest.approx(float(same.loss(cut[0], cut[0], part)), rel=1e-5)


def test_tables_padded_to_other_sizes_from_the_command_line(tmp_path, capsys):
    names = [
        saved(tmp_path / str(n), pico("llama", "lm", vocab_size=n), word_tokenizer())
        for n in (20, 32, 12)
    ]
    (tmp_path / "t.txt").write_text("\n".join(sentences(40)) + "\n")
    flags = ["--data", str(tmp_path / "t.txt"), "--steps", "1", "--train", "all", "-q"]
    out = ["--out", str(tmp_path / "o")]
    assert run(["finetune", names[0], "--teacher", names[1], *flags, *out]) == 0
    out = ["--out", str(tmp_path / "p")]
    assert run(["finetune", names[0], "--teacher", names[2], *flags, *out]) == 2
    assert "12 has 12 tokens" in capsys.readouterr().err


def test_heads_for_other_things_teach_hidden_states_alone():
    student, teacher = pico("bert", "lm"), pico("bert", "classification", 1)
    plain = Objective(student, word_tokenizer(), sentences(8), None, 64)
    for other in (teacher, pico("bert", "classification", 1, num_labels=3)):
        both = Distilled(student, other, plain, None, 2.0, False)
        assert not both.heads(student)
    both = Distilled(teacher, pico("bert", "classification", num_labels=3), plain, None, 2.0, False)
    assert not both.heads(teacher)
    assert both.loss(teacher, teacher, both.part([0, 1], 0)).isfinite()
