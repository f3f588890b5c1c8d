"""A folder of a checkpoint: nothing outside it is read or copied, nothing that it needs is left."""

import json
import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import output, pico, sentences, word_tokenizer
from folders import RANK, compressed, masked_bert, read_config
from safetensors.torch import load_file, save_file

from tlmtool.cli import run
from tlmtool.failure import NotLoadable
from tlmtool.models import folder as folder_of_model
from tlmtool.models.checkpoint import empty, load, load_tokenizer
from tlmtool.models.folder import Folder
from tlmtool.models.guarding import modules
from tlmtool.models.saving import save


@pytest.fixture
def folder(tmp_path) -> Path:
    """A bert with its tokenizer."""
    return masked_bert(tmp_path / "model")


MLM = ("--task", "mlm", "--data", "TEXTS", "--max-length", "16")
READERS = ("guard", "read_config", "headers", "front_matter", "side_files", "sha256")


@pytest.mark.parametrize(
    "words",
    [["compress", *RANK], ["overparam", "--growth", "2"], ["finetune", "--steps", "1", *MLM]],
    ids=lambda words: words[0],
)
def test_a_command_reads_the_files_of_its_model_once(folder, monkeypatch, words):
    read = Counter()

    def counted(name, own, path, *rest):
        read[name, path] += folder in (path, path.parent)
        return own(path, *rest)

    for name in READERS:
        own = getattr(folder_of_model, name)
        monkeypatch.setattr(folder_of_model, name, partial(counted, name, own))
    (folder / "texts.txt").write_text("\n".join(sentences(24)))
    out = str(folder.parent / "out")
    flags = [word.replace("TEXTS", str(folder / "texts.txt")) for word in words[1:]]
    assert run([words[0], str(folder), *flags, "--out", out, "-q"]) == 0
    seen = {name for (name, _), count in read.items() if count}
    assert seen == {*READERS} and max(read.values()) == 1, read


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
