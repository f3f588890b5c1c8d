"""What a file of weights holds and its model does not take is named; nothing is drawn unasked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CASES, output, pico, sentences, word_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from tlmtool.cli import run
from tlmtool.compression.compress import compress
from tlmtool.failure import NotLoadable
from tlmtool.models.checkpoint import described, empty, load
from tlmtool.models.saving import save

RANK = ("--rank", "2", "--calibration", "none")


def edit(folder: Path, **changes) -> None:
    """config.json with keys changed; None takes one out."""
    file = folder / "config.json"
    kept = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def rewrite(folder: Path, change) -> None:
    """The file of weights, changed."""
    file = folder / "model.safetensors"
    held = {key: value.contiguous() for key, value in change(load_file(file)).items()}
    save_file(held, file, {"format": "pt"})


def without(part):
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


def heard(read, folder, **more):
    """(what is read, the warnings)"""
    told = []
    return read(folder, warn=told.append, **more), told


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


DTYPES = ("int8", "uint8", "int64", "bool", "complex64", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_floating_point_number_is_refused(masked, dtype):
    name = "bert.encoder.layer.1.attention.self.query.weight"
    rewrite(masked, lambda w: w | {name: w[name].to(getattr(torch, dtype))})
    for read in (load, empty):
        with pytest.raises(NotLoadable, match=f"{name} is stored as .*take the checkpoint that"):
            read(masked)


def test_of_several_dtypes_the_widest_is_taken_and_told(masked):
    def narrow(weights):
        return {k: v if "LayerNorm" in k else v.bfloat16() for k, v in weights.items()}

    rewrite(masked, narrow)
    for said in ("bfloat16", "float32"):
        edit(masked, dtype=said)
        for read in (load, empty):
            model, told = heard(read, masked)
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            assert len(told) == 1 and "bfloat16 (" in told[0] and "written, in float32" in told[0]
    _, told = heard(load, masked, dtype="bfloat16")
    assert "written, in bfloat16" in told[0]
    norm = "bert.embeddings.LayerNorm.weight"
    stored = load_file(masked / "model.safetensors")[norm]
    assert torch.equal(load(masked).state_dict()[norm], stored)  # not rounded on the way


def test_weights_are_not_rounded_to_what_config_says(masked):
    edit(masked, dtype="float16")
    model, told = heard(load, masked)
    assert model.dtype == torch.float32 and len(told) == 1
    assert "says float16" in told[0] and "in float32" in told[0]
    assert torch.equal(output(model), output(pico("bert", "lm")))


def test_two_sets_of_weights_are_not_chosen_from(masked, tmp_path):
    """A stale index beside a whole file; one that names the whole file is none."""
    index = masked / "model.safetensors.index.json"
    names = list(load_file(masked / "model.safetensors"))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    assert torch.equal(output(load(masked)), output(pico("bert", "lm")))
    shards = save(pico("bert", "lm", seed=1), tmp_path / "s", max_shard_size="20KB")
    for file in shards.glob("model*"):
        shutil.copy(file, masked)
    for read in (load, empty):
        with pytest.raises(NotLoadable, match=r"model\.safetensors and those that .*index\.json"):
            read(masked)
    (masked / "model.safetensors").unlink()
    assert torch.equal(output(load(masked)), output(pico("bert", "lm", seed=1)))


def test_an_index_that_its_shards_contradict_is_refused(tmp_path):
    folder = save(pico("bert"), tmp_path / "m", max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    right = json.loads(index.read_text())
    names = sorted({*right["weight_map"].values()})
    key = next(k for k, name in right["weight_map"].items() if name == names[0])
    for wrong in ({key: names[1]}, {"no.such.tensor": names[0]}):
        index.write_text(json.dumps({"weight_map": right["weight_map"] | wrong}))
        with pytest.raises(NotLoadable, match="which it does not"):
            load(folder)
    index.write_text(json.dumps(right))
    twice = load_file(folder / names[1]) | {key: load_file(folder / names[0])[key]}
    save_file(twice, folder / names[1], {"format": "pt"})
    with pytest.raises(NotLoadable, match=f"holds {key} twice, in {names[0]} and {names[1]}"):
        load(folder)


def test_what_makes_transformers_load_others_is_refused(masked):
    """An adapter beside the model, other names of the weights, shards of a mesh."""
    (masked / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(NotLoadable, match="holds an adapter"):
        load(masked)
    (masked / "adapter_config.json").unlink()
    shutil.copy(masked / "model.safetensors", masked / "other.safetensors")
    edit(masked, transformers_weights="other.safetensors")
    with pytest.raises(NotLoadable, match=r"names other weights.*transformers_weights"):
        load(masked)
    edit(masked, transformers_weights=None)
    name = "shard-00000-model-00001-of-00001.safetensors"
    (masked / "other.safetensors").rename(masked / name)
    with pytest.raises(NotLoadable, match="shards of several devices"):
        load(masked)
