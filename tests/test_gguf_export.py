"""tlm export --to gguf: the file computes what the model computes, and what it cannot hold is
refused."""

import json

import gguf
import pytest
import torch
from conftest import WORDS, output, pico, word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tlmtool.cli import run
from tlmtool.exporting._vocabulary import _splitting
from tlmtool.failure import Usage
from tlmtool.models.checkpoint import load, load_tokenizer

MERGES = [("a", "b"), ("\u0120", "a"), ("ab", "c")]
SPECIAL = ["<|s|>", "<|e|>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with three merges."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, MERGES)]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|s|>", eos_token="<|e|>")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Folders by name: llamas with tied and own heads, and what compress made of the first."""
    folder = tmp_path_factory.mktemp("gguf")
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    for name, more in {"tied": {}, "own": {"tie_word_embeddings": False}}.items():
        sizes = {"vocab_size": 270, "intermediate_size": 64, "tie_word_embeddings": True, **more}
        pico("llama", "lm", **sizes).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    short = ["--calibration", str(text), "--max-length", "12", "-q", "--device", "cpu"]
    given = {
        "svd": ["--rank", "4", "--method", "svd"],
        "narrow": ["--rank", "32", "--method", "narrow", "--sites", "ffn"],
        "plain": ["--rank", "32", "--plain", "--sites", "ffn"],
    }
    for name, words in given.items():
        out = ["--out", str(folder / name)]
        assert run(["compress", str(folder / "tied"), *words, *out, *short]) == 0
    return folder


@pytest.fixture
def export(room, tmp_path, monkeypatch):
    """A model that was written to a file and read back by tlm, with the report."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(name: str, *more: str):
        out = tmp_path / "out"
        words = ["export", str(room / name), "--to", "gguf", "--out", str(out), *more, "-q"]
        assert run(words) == 0
        return load(out / "model.gguf"), json.loads((out / "report.json").read_text())

    return made


@pytest.mark.parametrize("name", ["tied", "own", "narrow", "plain"])
def test_the_file_computes_what_the_model_computes(room, export, name):
    found, report = export(name)
    assert torch.equal(output(found), output(load(room / name)))
    assert report["parity"]["relative"] == 0 and "rounding" not in report["parity"]


def test_eight_bits_are_those_of_llama_cpp(room, export, tmp_path):
    found, report = export("tied", "--bits", "8")
    kinds = {
        t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out/model.gguf").tensors
    }
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0" and kinds["output_norm.weight"] == "F32"
    assert report["parity"]["relative"] < 1e-5 < report["parity"]["rounding"] < 0.2
    whole = load(room / "tied").model.layers[0].mlp.up_proj.weight.detach()
    want = gguf.quantize(whole.numpy(), gguf.GGMLQuantizationType.Q8_0)
    own = torch.from_numpy(gguf.dequantize(want, gguf.GGMLQuantizationType.Q8_0))
    assert torch.equal(found.model.layers[0].mlp.up_proj.weight, own)


def test_halves_are_stored_as_halves(export, tmp_path):
    export("tied", "--dtype", "float16")
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out/model.gguf").tensors}
    assert kinds == {"F16", "F32"}


def test_the_tokenizer_travels(export, room, tmp_path):
    export("tied")
    found, own = load_tokenizer(tmp_path / "out/model.gguf"), load_tokenizer(room / "tied")
    for text in ("abc ab a", "l'\u00e9t\u00e9 12", "<|s|>a<|e|>"):
        assert found(text)["input_ids"] == own(text)["input_ids"]
    assert (found.bos_token, found.eos_token) == ("<|s|>", "<|e|>")


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("svd", (), "llama.cpp multiplies by one matrix in each layer, and"),
        ("tied", ("--bits", "4"), "--to gguf rounds to 8 bits"),
        ("bert", (), "writes language models of the type llama"),
        ("words", (), "is WordLevel, and tlm writes byte-level BPE"),
        ("bare", (), "has no tokenizer"),
        ("widths", (), "one width for all MLPs of such a model"),
    ],
)
def test_what_it_cannot_hold_is_refused(room, tmp_path, capsys, name, more, says):
    folder = room / name
    if name == "bert":
        pico("bert", "lm").save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    elif name in ("words", "bare"):
        pico("llama", "lm").save_pretrained(folder)
        _ = word_tokenizer().save_pretrained(folder) if name == "words" else None
    elif name == "widths":
        first = ["compress", str(room / "tied"), "--method", "narrow", "--rank", "32", "--sites"]
        words = ["model.layers.0.mlp.*,layers.0.mlp.*", "--calibration", "none", "-q"]
        assert run([*first, words[0].split(",")[1], *words[1:], "--out", str(folder)]) == 0
    capsys.readouterr()
    words = ["export", str(folder), "--to", "gguf", "--out", str(tmp_path / "o"), *more, "-q"]
    assert run(words) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_the_name_of_a_file_is_refused(room, tmp_path, capsys):
    words = ["export", str(room / "tied"), "--to", "gguf", "--out", str(tmp_path / "m.gguf"), "-q"]
    assert run(words) == 2 and "--out is a folder" in capsys.readouterr().err


def test_ways_to_split_text_have_names():
    byte = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    both = {"type": "Sequence", "pretokenizers": [digits, byte]}
    assert _splitting({"pre_tokenizer": byte}, "m") == "gpt-2"
    assert _splitting({"pre_tokenizer": both}, "m") == "smollm"
    with pytest.raises(Usage, match="knows no name"):
        _splitting({"pre_tokenizer": {"type": "Whitespace"}}, "m")
