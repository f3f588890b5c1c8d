"""Token types, and tables that are larger or smaller than the tokenizer, on every path."""

import json

import pytest
import torch
from conftest import WORDS, pico, sentences, word_tokenizer
from test_inputs import labelled, saved

from tlmtool.cli import run
from tlmtool.data.batching import batches
from tlmtool.failure import Usage
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.inputs import inputs_of
from tlmtool.models import checkpoint
from tlmtool.training.distilling import Distilled
from tlmtool.training.objectives import Language, Objective


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
