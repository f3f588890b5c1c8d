"""Files of a checkpoint are bounded: pipes, counts, sizes, front matter and tokenizers."""

import json
import os
from pathlib import Path

import pytest
from conftest import pico
from folders import RANK, compressed, edit, masked_bert, read_config

from tlmtool.cli import run
from tlmtool.compression.compress import compress
from tlmtool.failure import NotLoadable
from tlmtool.models.checkpoint import empty, load, load_tokenizer
from tlmtool.models.folder import Folder
from tlmtool.models.saving import save

BILLION = 10**9


@pytest.fixture
def folder(tmp_path) -> Path:
    """A bert with its tokenizer."""
    return masked_bert(tmp_path / "model")


PIPES = ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json")
PIPES += ("tokenizer_config.json", "generation_config.json", "modules.json", "README.md")


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_waited_for(folder, tmp_path, capsys, name, kind):
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
        says = f"{folder / name} is a named pipe"
    else:
        (folder / name).symlink_to("/dev/zero")
        says = f"{folder / name} is a link to /dev/zero"
    assert run(["compress", str(folder), *RANK, "--out", str(tmp_path / "o"), "-q"]) == 4
    assert says in capsys.readouterr().err


def test_a_pipe_among_the_templates_is_not_waited_for(folder):
    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates" / "tools.jinja")
    for read in (load, load_tokenizer):
        with pytest.raises(NotLoadable, match="is a named pipe"):
            read(folder)


def test_pipes_beside_the_weights_stay(folder):
    os.mkfifo(folder / "notes.txt")
    out = compressed(folder)
    assert not (out / "notes.txt").exists()
    assert "no ordinary file" in json.loads((out / "report.json").read_text())["warnings"][0]


COUNTS = ("num_labels", "num_hidden_layers", "vocab_size", "max_position_embeddings")
COUNTS += ("type_vocab_size", "hidden_size", "intermediate_size", "max_layers")


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_count_beyond_the_files_is_refused_at_once(folder, key, nested):
    edit(folder, **({"text_config": {"deep": [{key: BILLION}]}} if nested else {key: BILLION}))
    if nested and "label" not in key and "layer" not in key:
        assert read_config(folder)  # nothing is made of it
        return
    for read in (load, empty):
        with pytest.raises(NotLoadable, match=r"1000000000|by config\.json|makes a model"):
            read(folder)


@pytest.mark.parametrize("key", ["max_position_embeddings", "vocab_size", "decoder_layers"])
def test_tables_that_no_file_holds_are_bounded_too(tmp_path, key):
    folder = save(pico("marian", "lm"), tmp_path / "m")
    edit(folder, **{key: BILLION})
    with pytest.raises(NotLoadable, match=r"makes a model of|says decoder_layers is"):
        load(folder)


def test_a_plan_of_countless_cores_is_refused(tmp_path):
    model = pico("bert")
    compress(model, rank=2, method="mpo", sites="ffn")
    folder = save(model, tmp_path / "m")
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"order": 3', f'"order": {BILLION}'))
    for read in (load, empty, read_config):
        with pytest.raises(NotLoadable, match="says order is 1000000000: at most 64 is possible"):
            read(folder)


def hole(file: Path, size: int) -> None:
    with file.open("ab") as opened:
        opened.truncate(size)


@pytest.mark.parametrize(
    ("name", "size"),
    [("config.json", 2**23), ("tokenizer.json", 2**30), ("generation_config.json", 2**30)],
)
def test_a_file_larger_than_it_can_be_is_not_read(folder, name, size):
    hole(folder / name, size)
    with pytest.raises(NotLoadable, match=f"{name} has {size:,} bytes: at most"):
        load(folder)
    with pytest.raises(NotLoadable, match=f"{name} has {size:,} bytes: at most"):
        load_tokenizer(folder)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "head",
    [LAUGHS + "license: *i", "a: " + "[" * 5000, "license: mit\n" * 9999, "x: " + "9" * 70000],
)
def test_front_matter_is_bounded(folder, head):
    (folder / "README.md").write_text(f"---\n{head}\n---\n# Model\n")
    assert Folder(folder).front == {}
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\n---\n# Model\n")
    assert Folder(folder).front == {"license": "mit", "base_model": "a/b"}
    (folder / "README.md").write_text("---\nlicense: {a: b}\n---\n# Model\n")
    assert Folder(folder).front == {"license": None}


def replace(old: str, new: str) -> dict:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [replace("a", "aaaa")] * 12}}, "long"),
        ({"normalizer": replace("a", "a" * 10**5)}, "long"),
        ({"pre_tokenizer": {"type": "NoSuch"}}, "the tokenizer in"),
        ({"model": None}, "the tokenizer in"),
    ],
)
def test_a_tokenizer_that_grows_or_is_broken_is_refused(folder, changes, says):
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(NotLoadable, match=says):
        load_tokenizer(folder)


def test_a_tokenizer_config_that_asks_for_too_much_is_refused(folder):
    file = folder / "tokenizer_config.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"model_max_length": 10**30}))
    assert load_tokenizer(folder)("the cat")["input_ids"]
    file.write_text(json.dumps(kept | {"extra_ids": BILLION, "tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(NotLoadable, match="extra_ids is 1000000000"):
        load_tokenizer(folder)


def test_a_panic_of_the_tokenizer_is_a_sentence(folder, monkeypatch):
    panic = type("PanicException", (BaseException,), {})

    def from_pretrained(*args, **kwargs):
        raise panic("no entry found for key\nnote: run with RUST_BACKTRACE=1")

    monkeypatch.setattr("tlmtool.models.checkpoint.AutoTokenizer.from_pretrained", from_pretrained)
    with pytest.raises(NotLoadable, match=r"the tokenizer in .* no entry found for key$"):
        load_tokenizer(folder)
    monkeypatch.setattr(
        "tlmtool.models.checkpoint.AutoTokenizer.from_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()),
    )
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(folder)
