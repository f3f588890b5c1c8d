"""A GGUF file is a model like any other: exact weights, its tokenizer, and a report that says what
it was rounded to before; what cannot be read ends in one sentence, with nothing left behind."""

import json
import os
import sys

import ggufs
import pytest
import refusals
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tlmtool.cli import run
from tlmtool.failure import NotLoadable
from tlmtool.models import unpacking
from tlmtool.models.checkpoint import load, load_tokenizer
from tlmtool.models.finding import resolve
from tlmtool.models.folder import Folder

refused = refusals.refused  # its fixture
RANK = ("--rank", "2", "--calibration", "none")


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def dense():
    return ggufs.model()


@pytest.fixture
def file(dense, tmp_path):
    return ggufs.written(tmp_path / "small.gguf", dense, ggufs.KIND.Q8_0)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_weights_are_those_of_the_file(dense, tmp_path, kind):
    kind = ggufs.KIND[kind]
    made = load(ggufs.written(tmp_path / "a.gguf", dense, kind))
    assert made.dtype == (torch.float16 if kind.name == "F16" else torch.float32)
    assert not hasattr(made.config, "quantization_config")
    held = made.state_dict()
    for key, value in dense.state_dict().items():
        if value.ndim == 2:
            value = torch.from_numpy(ggufs.rounded(value.numpy(), kind).copy())
        assert torch.equal(held[key], value.to(made.dtype)), key


def test_the_tokenizer_is_that_of_the_file(file):
    tokenizer = load_tokenizer(file)
    ids = tokenizer("to be, or not\n")["input_ids"]
    assert len(ids) == 14 and tokenizer.decode(ids) == "to be, or not\n"
    assert tokenizer.eos_token == ggufs.END


def test_compress_tells_what_the_weights_were(file, capsys):
    out = file.parent / "out"
    assert run(["compress", str(file), *RANK, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    told, size = report["model"]["gguf"], file.stat().st_size
    assert told["quantization"] == "Q8_0" and told["bytes"] == size
    assert told["tensors"]["Q8_0"] == 15 and report["file_bytes"]["before"] == size
    assert report["model"]["sha256"] == {"small.gguf": told["sha256"]}
    said = [line for line in report["warnings"] if f"small.gguf, {size:,} bytes of Q8_0" in line]
    assert len(said) == 1 and said[0] in (out / "README.md").read_text()
    assert not [f for f in out.rglob("*") if f.name.endswith((".gguf", ".gguf.json"))]
    assert AutoTokenizer.from_pretrained(out)("ab")["input_ids"]
    again = AutoModelForCausalLM.from_pretrained(out)
    assert again.config.model_type == f"tlm-{ggufs.FAMILY}"
    assert run(["merge", str(out), "--out", str(file.parent / "plain"), "-q"]) == 0


def test_a_folder_that_holds_only_one(file, tmp_path):
    assert Folder.of(tmp_path).origin == Folder.of(file).origin != None  # noqa: E711
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    (tmp_path / "training_args.bin").touch()  # no weights: it hides none
    with pytest.raises(NotLoadable, match=r"several GGUF files, other.gguf, small.gguf: give"):
        Folder.of(tmp_path)
    (tmp_path / "model.safetensors").touch()  # then the folder is what it was without them
    assert resolve(str(tmp_path)) == tmp_path


def test_every_verb_takes_it(file, tmp_path, refused, capsys):
    (tmp_path / "text.txt").write_text("\n".join(["to be or not to be", "that is all"] * 8))
    text = ("--data", str(tmp_path / "text.txt"))
    assert run(["profile", str(file), "-q"]) == 0
    assert run(["evaluate", str(file), "--task", "clm", *text, "-q"]) == 0
    grown = ("--growth", "1.5", "--out", str(tmp_path / "grown"))
    assert run(["overparam", str(file), *grown, "-q"]) == 0
    tuned = ("--task", "clm", *text, "--steps", "1", "--out", str(tmp_path / "tuned"))
    assert run(["finetune", str(file), *tuned, "-q"]) == 0
    capsys.readouterr()
    assert "nothing to merge" in refused(2, file, verb="merge")


def test_it_is_unpacked_once(file, monkeypatch):
    first = resolve(str(file))
    monkeypatch.setattr(unpacking, "_made", lambda *_: pytest.fail("unpacked again"))
    assert resolve(str(file)) == first and unpacking.origin_of(first).file == "small.gguf"
    assert [each.name for each in unpacking.cache().iterdir()] == [first.name]


def test_what_was_not_used_for_a_week_makes_room(dense, file):
    old = resolve(str(file))
    other = ggufs.written(file.with_name("other.gguf"), dense)
    resolve(str(other))
    assert old.exists()
    long_ago = old.stat().st_mtime - unpacking.KEPT - 1
    os.utime(old, (long_ago, long_ago))
    resolve(str(ggufs.written(file.with_name("third.gguf"), dense)))
    assert not old.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_is_ended_leaves_nothing(file, monkeypatch, error):
    def ended(*_):
        raise error

    monkeypatch.setattr(unpacking, "_left_out", ended)
    with pytest.raises((error, NotLoadable)):
        resolve(str(file))
    assert not list(unpacking.cache().iterdir())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: b"", "is damaged or no GGUF file"),
        (lambda raw: b"GARBAGE" * 99, "is damaged or no GGUF file"),
        (lambda raw: raw[:200], "is damaged or no GGUF file"),
        (lambda raw: raw[: len(raw) - 4000], "is damaged or incomplete"),
        (lambda raw: raw[:8] + b"\xff" * 8 + raw[16:], "is damaged or no GGUF file"),
        (lambda raw: raw.replace(b"qwen2", b"dance"), "of architecture dance, cannot be unpacked"),
        (
            lambda raw: raw.replace(b"blk.1.ffn_up", b"blk.1.gone__"),
            "lacks 1 weights, such as model",
        ),
    ],
)
def test_a_file_that_cannot_be_read(file, refused, damage, says):
    file.write_bytes(damage(file.read_bytes()))
    sentence = refused(4, file, *RANK)
    assert says in sentence and str(file) in sentence
    assert not unpacking.cache().exists() or not list(unpacking.cache().iterdir())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"split.count": 3}, "is one of 3 parts of a model: join them"),
        ({f"{ggufs.FAMILY}.vocab_size": 10**9}, "describes a model of"),
    ],
)
def test_a_file_of_another_kind_is_refused(dense, tmp_path, refused, fields, says):
    assert says in refused(4, ggufs.written(tmp_path / "a.gguf", dense, **fields), *RANK)


def test_numbers_without_a_place_are_told(tmp_path):
    more = ggufs.model(num_hidden_layers=3)
    more.config.num_hidden_layers = 2
    told = Folder.of(ggufs.written(tmp_path / "a.gguf", more)).notes
    assert any("have a place in" in note for note in told), told


def test_without_the_extra_it_is_said(file, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'tlmtool[gguf]'" in refused(5, file, *RANK)
