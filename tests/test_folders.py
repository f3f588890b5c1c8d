"""A folder of a checkpoint: nothing outside it is read or copied, nothing that it needs is left."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import output, pico, sentences, word_tokenizer
from safetensors.torch import load_file, save_file

from tlmtool.cli import run
from tlmtool.compression.compress import compress
from tlmtool.failure import NotLoadable
from tlmtool.models.checkpoint import empty, load, load_tokenizer
from tlmtool.models.folder import Folder
from tlmtool.models.guarding import modules
from tlmtool.models.saving import save

BILLION = 10**9
RANK = ("--rank", "2", "--calibration", "none")


def read_config(folder: Path) -> dict:
    return Folder(folder).config


def edit(folder: Path, **changes) -> None:
    """config.json with keys changed; None takes one out."""
    file = folder / "config.json"
    kept = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A bert with its tokenizer."""
    made = save(pico("bert", "lm"), tmp_path / "model")
    word_tokenizer().save_pretrained(made)
    return made


def compressed(folder: Path, *more: str) -> Path:
    """A folder that `tlm compress` makes of another."""
    out = folder.parent / "out"
    assert run(["compress", str(folder), *RANK, "--out", str(out), "-q", *more]) == 0
    return out


# ---- what it needs travels


def test_every_part_of_a_sentence_transformer_travels(folder):
    """modules.json names them: weights too, byte for byte, in a folder within and by a link."""
    names = ["", "1_Pooling", "2_Dense", "3_CNN", "4_Normalize", "parts/5_LayerNorm"]
    listed = [{"idx": i, "name": str(i), "path": path} for i, path in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(listed))
    needed = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    needed += ["2_Dense/pytorch_model.bin", "3_CNN/cnn_config.json", "3_CNN/deep/er/model.npz"]
    needed += ["parts/5_LayerNorm/model.safetensors", "parts/5_LayerNorm/README.md"]
    needed += ["sentence_bert_config.json", "config_sentence_transformers.json", "modules.json"]
    stays = ["9_Dense/model.safetensors", "onnx/model.json", "2_Dense/.cache/x", "left.bin"]
    for name in needed[:-1] + stays:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(32))
    (folder / "3_CNN").rename(folder / "kept")
    (folder / "3_CNN").symlink_to("kept")
    out = compressed(folder)
    for name in needed:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not any((out / name).exists() for name in stays)
    told = json.loads((out / "report.json").read_text())["warnings"]
    assert [each for each in told if "2_Dense/pytorch_model.bin is a pickle" in each]


def test_sentence_transformers_itself_reads_what_was_compressed(tmp_path):
    """With a Dense part behind the pooling: its weights are those of the original."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts

    bare = save(pico("bert"), tmp_path / "bare")
    word_tokenizer().save_pretrained(bare)
    transformer = parts.Transformer(str(bare))
    dense = parts.Dense(32, 7)
    SentenceTransformer(
        modules=[transformer, parts.Pooling(32), dense, parts.Normalize()], device="cpu"
    ).save(str(tmp_path / "model"))
    out = compressed(tmp_path / "model")
    model = SentenceTransformer(str(out), device="cpu")
    assert torch.equal(model[2].linear.weight, dense.linear.weight)
    assert model.encode(sentences(3)).shape == (3, 7)


def test_a_transformer_below_the_folder_is_named(folder, tmp_path):
    (tmp_path / "whole").mkdir()
    folder.rename(tmp_path / "whole" / "0_Transformer")
    listed = [{"idx": 0, "name": "0", "path": "0_Transformer"}]
    (tmp_path / "whole" / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(NotLoadable, match=r"no config\.json.*lies in .*0_Transformer, give that"):
        load(tmp_path / "whole")


# ---- nothing outside it is read or copied


@pytest.fixture
def private(tmp_path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.txt").write_text("SECRET")
    return tmp_path / "private"


def test_links_out_of_the_folder_are_not_copied(folder, private):
    """Of files, of folders and by way of another link; links within it are as files."""
    (folder / "notes.txt").symlink_to(private / "key.txt")
    (folder / "chain.txt").symlink_to("notes.txt")
    (folder / "1_Pooling").symlink_to(private)
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "circle.txt").symlink_to("circle.txt")
    (folder / "LICENSE").write_text("mine")
    (folder / "licence.txt").symlink_to("LICENSE")
    (folder / "1_Own").mkdir()
    (folder / "1_Own" / "deep.txt").symlink_to("../../private/key.txt")
    out = compressed(folder)
    assert not [f for f in out.rglob("*") if f.is_file() and b"SECRET" in f.read_bytes()]
    assert (out / "licence.txt").read_text() == "mine" and not any(
        file.is_symlink() for file in out.rglob("*")
    )
    told = "\n".join(json.loads((out / "report.json").read_text())["warnings"])
    for name in ("notes.txt", "chain.txt", "1_Pooling", "gone.txt", "circle.txt", "1_Own/deep.txt"):
        assert f"{folder / name} is a link" in told


NAMES = ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_no_link_out_of_the_folder(folder, private, name):
    (folder / name).touch()
    shutil.move(folder / name, private / name)
    (folder / name).symlink_to(private / name)
    for read in (load, empty, load_tokenizer, read_config):
        with pytest.raises(NotLoadable, match=f"{name} is a link to .*outside of the folder"):
            read(folder)


def test_a_folder_that_is_a_link_and_the_cache_of_the_hub_are_read(folder, tmp_path):
    """`snapshots/<revision>/file` leads to `blobs/<hash>` of the same model, and to no other."""
    (tmp_path / "link").symlink_to(folder)
    assert torch.equal(output(load(tmp_path / "link")), output(load(folder)))
    home = tmp_path / "models--a--b"
    snapshot, blobs = home / "snapshots" / "abc", home / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (folder / "LICENSE").write_text("free")
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / f"{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert torch.equal(output(load(snapshot)), output(load(folder)))
    travels, told = Folder(snapshot).beside
    assert Path("LICENSE") in travels and not told
    other = tmp_path / "models--c--d" / "blobs"
    other.mkdir(parents=True)
    shutil.move(blobs / "0", other / "0")
    first = sorted(folder.iterdir())[0].name
    (snapshot / first).unlink()
    (snapshot / first).symlink_to(other / "0")
    assert [each for each in Folder(snapshot).beside[1] if first in each]


OUTSIDE = ["../private/w.safetensors", "{here}/private/w.safetensors", "a/../../w.safetensors"]
OUTSIDE += ["w\0.safetensors", "", "..", "weights.bin", 3, None, ["w"]]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_files_of_its_folder(folder, private, tmp_path, name):
    held = load_file(folder / "model.safetensors")
    save_file(held, private / "w.safetensors", {"format": "pt"})
    (folder / "model.safetensors").unlink()
    named = name.format(here=tmp_path) if isinstance(name, str) else name
    index = {"weight_map": dict.fromkeys(held, named)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotLoadable, match=r"index\.json names .*which (lies outside|is no safe)"):
        load(folder)


@pytest.mark.parametrize("path", ["../private", "{here}/private", "1_Pooling/../..", "link", "\0"])
def test_modules_lie_in_their_folder(folder, private, tmp_path, path):
    (folder / "link").symlink_to(private)
    listed = [{"path": ""}, {"path": path.format(here=tmp_path)}]
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(NotLoadable, match="outside of the folder"):
        modules(folder)
    with pytest.raises(NotLoadable, match="outside of the folder"):
        save(load(folder), tmp_path / "out", source=folder)


# ---- bounds


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
