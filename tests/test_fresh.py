"""New models from a config: their tokenizer, packed text, kernels, what is refused."""

import json
import random
from pathlib import Path

import pytest
import torch
from conftest import WORDS, word_tokenizer
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from tlmtool.cli import run
from tlmtool.data.batching import packed
from tlmtool.data.vocabulary import trained
from tlmtool.measuring.losses import language_loss
from tlmtool.models.kernels import converted
from tlmtool.recipe.building import build, dump

SIZES = {
    "bert": "hidden_size=32 num_hidden_layers=2 num_attention_heads=2 intermediate_size=48",
    "gpt2": "n_embd=32 n_layer=2 n_head=2 n_positions=64",
    "mistral": "hidden_size=32 num_hidden_layers=2 num_attention_heads=2 num_key_value_heads=2 "
    "intermediate_size=48 sliding_window=4",
}
FAST = ["--steps", "4", "--batch", "8", "--lr", "1e-3", "--vocab-size", "300", "--device", "cpu"]
QUICK = [*FAST, "--max-length", "16", "--pack", "-q"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    for name, count in (("train", 120), ("valid", 30)):
        lines = [" ".join(draw.choices(WORDS, k=9)) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def words_of(family: str, data: Path, out: Path, *more: str) -> list[str]:
    sizes = [part for each in SIZES[family].split() for part in ("--set", f"config.{each}")]
    task = ["--task", "mlm" if family == "bert" else "clm", "--data", str(data)]
    return ["finetune", "--from-config", family, *sizes, *task, *QUICK, "--out", str(out), *more]


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("bert", []),
        ("bert", ["--attention", "dimensionwise", "--mixer", "3", "--layers", "1"]),
        ("gpt2", ["--attention", "multilinear", "--w-o", "decay", "--attention-rank", "8"]),
        ("gpt2", ["--attention", "dimensionwise", "--layers", "0"]),
        ("mistral", ["--attention", "dimensionwise"]),  # in place of a window, which is none then
    ],
)
def test_a_new_model_trains_and_loads_with_its_kernels(family, attention, texts, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(words_of(family, texts, out, *attention, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["id"] == f"a new {family}" and report["recipe"].get("model") is None
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    kernels = len(list(converted(model)))
    assert kernels == (0 if not attention else 1 if "--layers" in attention else 2)
    assert model.config.vocab_size == len(tokenizer)
    held = (texts / "valid.txt").read_text().split("\n")[:-1]
    found = language_loss(model.eval(), tokenizer, held, max_length=16, pack=True)
    assert found.mean == pytest.approx(report["scores"]["after"]["score"], rel=1e-5)
    if family != "bert":
        ids = tokenizer("the cat", return_tensors="pt")
        settings = {"max_new_tokens": 8, "do_sample": False}
        cached, plain = (model.generate(**ids, **settings, use_cache=use) for use in (True, False))
        assert torch.equal(cached, plain)


def test_the_saved_recipe_makes_the_model_again_and_a_seed_another(texts, tmp_path, capsys):
    first = tmp_path / "first"
    assert run(words_of("bert", texts, first)) == 0
    again = ["finetune", "--recipe", str(first / "recipe.yaml"), "-q", "--out"]
    assert run([*again, str(tmp_path / "second")]) == 0
    assert run([*again, str(tmp_path / "other"), "--seed", "1"]) == 0
    kept = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "second")]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])
    other = load_file(tmp_path / "other" / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(kept[0][name], other[name])
    texts_of = [(tmp_path / n / "tokenizer.json").read_text() for n in ("first", "second", "other")]
    assert len(set(texts_of)) == 1


def test_a_new_model_is_float32_whatever_its_config_says(texts, tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    sizes = {k: int(v) for k, v in (each.split("=") for each in SIZES["bert"].split())}
    kept = {"model_type": "bert", "torch_dtype": "bfloat16", "architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(kept | sizes))
    for out, more, dtype in (
        ("a", [], torch.float32),
        ("b", ["--dtype", "bfloat16"], torch.bfloat16),
    ):
        words = ["finetune", "--from-config", str(folder), "--task", "mlm", "--data", str(texts)]
        words += [*QUICK, "--set", "config.layer_norm_eps=1e-5", *more]
        assert run([*words, "--out", str(tmp_path / out)]) == 0
        weights = load_file(tmp_path / out / "model.safetensors")
        assert {w.dtype for w in weights.values()} == {dtype}
        assert json.loads((tmp_path / out / "config.json").read_text())["layer_norm_eps"] == 1e-5


def test_a_study_draws_new_weights_for_each_seed(texts, tmp_path, capsys):
    words = words_of("bert", texts, tmp_path / "study", "--seeds", "2", "--arms", "dense", "--json")
    assert run(words) == 0
    results = json.loads(capsys.readouterr().out)["study"]["results"]
    assert results[0]["score"] != results[1]["score"]


def test_a_recipe_keeps_the_keys_of_the_config(tmp_path):
    flags = {"from_config": "bert", "task": "mlm"}
    made = build("finetune", flags, ["config.num_hidden_layers=3", "config.hidden_act=relu"])
    assert made.config == {"num_hidden_layers": 3, "hidden_act": "relu"}
    (tmp_path / "r.yaml").write_text(dump(made))
    assert build("finetune", recipe_file=tmp_path / "r.yaml") == made


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--from-config", "berd"], "did you mean bert?"),
        (["--from-config", "bert", "--set", "config.num_hidden_layer=2"], "config.num_hidden_la"),
        (["--from-config", "bert", "--set", "config.num_hidden_layers=two"], "not of type int"),
        (["--from-config", "bert", "--set", "config.hidden_size=33"], "multiple"),
        (["--from-config", "bert", "--layers", "0"], "--attention NAME"),
        (["--from-config", "gpt2", "--attention", "dimensionwise", "--f", "softmax"], "causal"),
        (
            ["--from-config", "bert", "--attention", "dimensionwise", "--layers", "encoder"],
            "no encoder beside a decoder",
        ),
        (["--from-config", "t5", "--attention", "dimensionwise"], "t5"),
        (["minilm", "--from-config", "bert"], "exclude each other"),
        (["--from-config", "bert", "--set", "config.vocab_size=10"], "cannot be set"),
        (["--from-config", "bert", "--set", "config.dtype=bfloat16"], "cannot be set"),
        (
            ["--from-config", "bert", "--set", "config.num_hidden_layers=0"],
            "not take these values",
        ),
        (["--from-config", "bert", "--set", "config.hidden_act=foo"], "not take these values"),
        (["--from-config", "bert-base"], "a checkpoint with weights"),
        (
            ["--from-config", "bert", "--attention", "dimensionwise", "--layers", "0-99999999999"],
            "out of range",
        ),
        (
            ["--from-config", "bert", "--attention", "dimensionwise", "--layers", "1-0,0"],
            "out of range",
        ),
        (
            [
                "--from-config",
                "gpt2",
                "--attention",
                "multilinear",
                "--w-o",
                "full",
                "--attention-length",
                "8",
            ],
            "16 tokens are more than --attention-length 8",
        ),
        (["minilm", "--attention", "dimensionwise"], "--from-config"),
        (["minilm", "--set", "config.hidden_size=32"], "--from-config"),
        (["--from-config", "bert", "--teacher", "minilm"], "--teacher"),
    ],
)
def test_bad_input_is_one_sentence(more, says, texts, tmp_path, capsys):
    task = "clm" if "gpt2" in more else "mlm"
    words = ["finetune", *more, "--data", str(texts), *QUICK, "--out", str(tmp_path / "out")]
    words += [] if "--teacher" in more else ["--task", task]
    assert run(words) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error and not (tmp_path / "out").exists()


def test_a_new_encoder_decoder_translates_with_kernels_on_one_side(tmp_path, capsys):
    pytest.importorskip("sacrebleu")
    draw = random.Random(0)
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 60), ("val", 8)):
        lines = [" ".join(draw.choices(WORDS, k=5)) for _ in range(count)]
        (data / f"{name}.en").write_text("\n".join(lines) + "\n")
        (data / f"{name}.de").write_text("\n".join(line.upper() for line in lines) + "\n")
    sizes = "d_model=32 encoder_layers=2 decoder_layers=2 encoder_ffn_dim=48 decoder_ffn_dim=48 "
    sizes += "encoder_attention_heads=2 decoder_attention_heads=2 max_position_embeddings=64"
    sets = [part for each in sizes.split() for part in ("--set", f"config.{each}")]
    words = ["finetune", "--from-config", "marian", *sets, *FAST, "-q", "--max-length", "32"]
    words += ["--task", "translation", "--data", str(data), "--languages", "en-de", "--beams"]
    words += ["2", "--attention", "dimensionwise", "--layers", "encoder"]
    assert run([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "signature" in report["scores"]["after"] and "before" not in report["scores"]
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    found = [path for path, _ in converted(model)]
    assert len(found) == 2 and all("encoder.layers" in path for path in found)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    start = model.generate(**tokenizer("the cat", return_tensors="pt", return_token_type_ids=False))
    assert start[0, 0] == model.config.decoder_start_token_id == tokenizer.pad_token_id


# ---- tokenizers and packing


def test_a_trained_tokenizer_reads_everything_and_repeats_itself():
    texts = ["the cat sat on the mat", "a dog"] * 5
    bpe = trained(texts, "bpe", 300, "mlm", 64)
    ids = bpe("the unseen Ωmega")["input_ids"]
    assert bpe.decode(ids, skip_special_tokens=True).strip() == "the unseen Ωmega"
    assert [ids[0], ids[-1]] == [bpe.bos_token_id, bpe.eos_token_id] and bpe.mask_token_id
    assert trained(texts, "bpe", 300, "mlm", 64).get_vocab() == bpe.get_vocab()
    word = trained(texts, "word", 300, "clm", None)
    assert word("the zebra")["input_ids"][1] == word.unk_token_id
    assert trained(texts, "word", 300, "seq2seq", None)("the")["input_ids"][-1] == word.eos_token_id


def test_packed_blocks_hold_every_token_in_order_and_the_ends_that_are_asked_for():
    tokenizer = word_tokenizer()
    texts = ["the cat sat", "a dog", "the mat"]
    each = tokenizer(texts, add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    stream = [token for ids in each for token in [*ids, *([end] if end is not None else [])]]
    found = packed(tokenizer, texts, 4, eos=True)
    assert all(len(block) == 4 for block in found["input_ids"])
    whole = [token for block in found["input_ids"] for token in block]
    assert whole == stream[: len(stream) // 4 * 4]
    assert packed(tokenizer, texts, 99, eos=True)["input_ids"] == [stream]
    special = [place for row in found["special_tokens_mask"] for place in row]
    assert [t for t, s in zip(whole, special, strict=True) if s] == [end] * sum(special)
    assert sum(special) == whole.count(end) > 0
