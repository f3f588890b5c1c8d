"""What a file of weights holds and its model does not take is named; nothing is drawn unasked."""

import json
from pathlib import Path

import pytest
import torch
from conftest import CASES, output, pico, sentences, word_tokenizer
from folders import RANK, edit, heard, rewrite, without
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from tlmtool.cli import run
from tlmtool.compression.compress import compress
from tlmtool.failure import NotLoadable
from tlmtool.models.checkpoint import described, empty, load
from tlmtool.models.saving import save


@pytest.fixture
def masked(tmp_path) -> Path:
    """A bert with the head of its language model."""
    return save(pico("bert", "lm"), tmp_path / "masked")


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(("family", "head"), [c for c in CASES if c[1] != "base"])
def test_the_class_is_found_from_the_tensors(family, head, small, tmp_path):
    """Dense and factorized; a head is a head where config.json does not name it."""
    model = pico(family, head)
    if small:
        compress(model, rank=2, method="svd", sites="ffn")
    folder = save(model, tmp_path / "m")
    edit(folder, architectures=None)
    again, told = heard(empty, folder)
    assert type(again) is type(model)
    assert len(told) == 1 and "names no class" in told[0]
    assert type(model).__name__.removeprefix("Tlm") in told[0]


@pytest.mark.parametrize("named", [[], {}, "", "BertForMaskedLM", 3])
def test_architectures_of_another_kind_lose_no_head(masked, named):
    whole = output(load(masked))
    edit(masked, architectures=named)
    try:
        again, told = heard(load, masked)
    except NotLoadable:  # transformers refuses what is no list
        assert not isinstance(named, list)
        return
    assert torch.equal(output(again), whole)
    assert len(told) == (named != "BertForMaskedLM")
    assert described(masked)["architectures"] == ["BertForMaskedLM"]


def test_an_own_head_is_found_for_training_and_not_drawn(tmp_path, capsys):
    """Fine-tuning a classifier whose config.json names no class goes on from its head."""
    folder = save(pico("bert", "classification"), tmp_path / "m")
    word_tokenizer().save_pretrained(folder)
    edit(folder, architectures=None)
    rows = [f"{text}\t{i % 2}" for i, text in enumerate(sentences(24))]
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "dev"):
        (data / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    given = ("--task", "classification", "--data", data, "--steps", 1, "--batch", 4)
    given = ("finetune", folder, *given, "--out", tmp_path / "o", "-q")
    assert run([*map(str, given)]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert "before" in report["scores"]  # it had a head to score
    assert "BertForSequenceClassification" in report["warnings"][0]


def more(weights):
    extra = {"v_head.summary.weight": torch.ones(1, 32), "bert.x.lora_A.weight": torch.ones(2, 32)}
    return weights | extra


@pytest.mark.parametrize("named", [True, False])
def test_tensors_without_a_place_are_named(masked, named):
    whole = output(load(masked))
    rewrite(masked, more)
    if not named:
        edit(masked, architectures=None)
    for read in (load, empty):
        again, told = heard(read, masked)
        assert type(again).__name__ == "BertForMaskedLM"
        assert "v_head.summary.weight" in told[-1] and "bert.x.lora_A.weight" in told[-1]
    assert torch.equal(output(load(masked)), whole)


VERBS = {
    "compress": RANK,
    "overparam": ("--growth", "2"),
    "profile": ("--seq-len", "8"),
    "evaluate": ("--task", "mlm", "--data", "{data}"),
    "dry run": (*RANK, "--dry-run"),
    "merge": (),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_it_in_its_report_and_on_stderr(masked, tmp_path, capsys, verb):
    word_tokenizer().save_pretrained(masked)
    if verb == "merge":
        model = load(masked)
        compress(model, rank=2, method="svd", sites="ffn")
        masked = save(model, tmp_path / "small")
    rewrite(masked, more)
    (tmp_path / "data").write_text("\n".join(sentences(8)))
    given = [each.format(data=tmp_path / "data") for each in VERBS[verb]]
    out = ["--out", str(tmp_path / "o")] if verb in ("compress", "overparam", "merge") else []
    name = "compress" if verb == "dry run" else verb
    assert run([name, str(masked), *given, *out, "--json", "-q"]) == 0
    told = capsys.readouterr()
    assert any("v_head.summary.weight" in each for each in json.loads(told.out)["warnings"])
    assert "warning: " in told.err and "v_head.summary.weight" in told.err
    assert not out or "v_head.summary.weight" in (tmp_path / "o" / "README.md").read_text()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_pooler_that_is_not_there_is_not_invented(family, tmp_path):
    folder = save(pico(family), tmp_path / "m")
    hidden = output(load(folder))
    rewrite(folder, without("pooler"))
    for read in (load, empty):
        model, told = heard(read, folder)
        assert not any("pooler" in name for name, _ in model.named_parameters())
        assert len(told) == 1 and "no pooler" in told[0]
    model = load(folder)
    assert torch.equal(output(model), hidden)
    compress(model, rank=2, method="svd", sites="ffn")
    again = save(model, tmp_path / "o", source=folder)
    assert not [key for key in load_file(again / "model.safetensors") if "pooler" in key]
    assert torch.equal(output(load(again)), output(model))


def test_a_pooler_that_a_head_reads_is_asked_for(tmp_path):
    folder = save(pico("bert", "classification"), tmp_path / "m")
    rewrite(folder, without("pooler"))
    for read in (load, empty):
        with pytest.raises(NotLoadable, match=r"lacks 2 weights, such as bert\.pooler"):
            read(folder)


def test_of_a_new_head_what_is_drawn_below_it_is_named(masked):
    """The old head goes as was asked; the pooler was not asked for; what neither takes is told."""
    rewrite(masked, more)
    _, told = heard(load, masked, head=AutoModelForSequenceClassification)
    left, drawn = told
    assert "v_head" in left and "cls.predictions" not in left
    assert "bert.pooler.dense.weight" in drawn and "classifier" not in drawn
    _, told = heard(load, masked, head=AutoModelForMaskedLM, has=True)
    assert len(told) == 1 and "v_head" in told[0]


def test_buffers_of_old_files_are_no_news(tmp_path):
    """Positions and causal masks that transformers once saved, in dtypes of their own."""
    for family in ("bert", "gpt2"):
        folder = save(pico(family, "lm"), tmp_path / family)
        name = {"bert": "bert.embeddings.position_ids", "gpt2": "transformer.h.0.attn.bias"}[family]
        mask = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)} if family == "gpt2" else {}
        old = {name: torch.ones(1, 64, dtype=torch.uint8 if mask else torch.int64), **mask}
        rewrite(folder, lambda weights, old=old: weights | old)
        assert heard(load, folder)[1] == []
