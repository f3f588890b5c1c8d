"""Streamed weights: the same numbers and files as in memory, and only a block of them at a time."""

import copy
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import output, pico, sentences, word_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AlbertForMaskedLM

from tlmtool.cli import run
from tlmtool.commands import limits
from tlmtool.compression import shelving
from tlmtool.compression.compress import compress
from tlmtool.files.numbers import size
from tlmtool.models import streaming
from tlmtool.models.checkpoint import load
from tlmtool.models.saving import save
from tlmtool.models.streaming import give_back, settle, stream, streamed
from tlmtool.models.weights import WRITTEN, write_tensors

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems free pages")
CASES = [(family, "keep") for family in ("llama", "bert", "gpt2", "t5-gated", "albert")]
CASES += [("llama", "rank"), ("bart", "rank"), ("bert", "all")]
TEXTS = {"tokenizer": word_tokenizer(), "texts": sentences(16)}
BUDGETS = {
    "keep": {"keep": 0.6, **TEXTS},
    "rank": {"rank": 4, "method": "svd"},
    "all": {"keep": 0.6, "sites": "attention,ffn,embedding", "sequential": False, **TEXTS},
}
BLOCK = {"hidden_size": 128, "intermediate_size": 512, "head_dim": 32, "num_hidden_layers": 4}


@pytest.fixture(autouse=True)
def every(monkeypatch):
    """Also the small tensors of pico models are moved into files."""
    monkeypatch.setattr(streaming, "SMALL", 0)


def folder(tmp_path: Path, family: str, **more) -> Path:
    """A folder with a pico model that has a language-model head, and a tokenizer."""
    path = tmp_path / "model"
    made = shared() if family == "albert" else pico(family, "lm", **more)
    made.save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def shared() -> AlbertForMaskedLM:
    """A model whose one block runs twice."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "embedding_size": 16, "vocab_size": 99}
    layers = {"num_hidden_layers": 2, "num_hidden_groups": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    return AlbertForMaskedLM(AlbertConfig(**sizes, **layers)).eval()


def weights(path: Path) -> dict[str, bytes]:
    """{file: its bytes} of the files of weights and their index."""
    return {f.name: f.read_bytes() for f in path.glob("*.safetensors*")}


def resident() -> int:
    """Bytes of files of weights that are in the memory of this process."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            here = line.endswith(".safetensors")
        elif here and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.parametrize(("family", "budget"), CASES)
def test_a_streamed_model_is_compressed_to_the_same_bytes(family, budget, tmp_path):
    path, found = folder(tmp_path, family), []
    for room in (None, 0):
        model = load(path, room=room)
        assert (streamed(model) is not None) == (room is not None)
        compress(model, **BUDGETS[budget])
        save(model, tmp_path / f"{room}", max_shard_size="20KB")
        found.append(weights(tmp_path / f"{room}"))
    assert found[0] == found[1] and len(found[0]) > 3
    again = load(tmp_path / "0")
    assert torch.equal(output(again), output(model))


@LINUX
def test_all_weights_lie_in_files_before_and_after(tmp_path):
    path = folder(tmp_path, "llama")
    half = load(path, dtype="bfloat16", room=0)
    assert all(p.dtype == torch.bfloat16 and streamed(half).holds(p) for p in half.parameters())
    assert torch.equal(output(half), output(load(path, dtype="bfloat16")))
    model = load(path, room=0)
    kept = streamed(model)
    assert all(map(kept.holds, model.parameters()))
    before = {id(p) for p in model.parameters()}
    compress(model, keep=0.5, sites="attention,ffn", method="svd", **TEXTS)
    assert {id(p) for p in model.parameters()} != before
    assert all(map(kept.holds, model.parameters()))


@LINUX
def test_at_most_two_blocks_of_weights_are_in_memory(tmp_path):
    model = load(folder(tmp_path, "llama", **BLOCK), room=0)
    blocks, most = model.model.layers, []
    one = sum(p.nbytes for p in blocks[0].parameters())
    rest = sum(p.nbytes for p in model.parameters()) - len(blocks) * one
    for block in blocks:  # before the hook that frees, with all of the block in memory
        block.register_forward_hook(lambda *_: most.append(resident()), prepend=True)
    output(model)
    assert len(most) == len(blocks) and one < max(most) <= 2 * one + rest
    assert resident() <= rest + one // 2
    most.clear()
    compress(model, keep=0.5, sites="attention,ffn", method="svd", allocate="uniform", **TEXTS)
    assert most and max(most) <= 2 * one + rest
    assert sum(p.nbytes for p in blocks.parameters()) < 0.6 * len(blocks) * one


@pytest.mark.parametrize("family", ["llama", "bart", "gpt2"])
def test_activations_on_disk_give_the_same_bytes(family, tmp_path, monkeypatch):
    path, found, written = folder(tmp_path, family), [], []
    put = shelving.Disk.put
    monkeypatch.setattr(shelving.Disk, "put", lambda *a: written.append(put(*a)) or written[-1])
    for most in (None, 0):
        model = load(path)
        with shelving.limited(most):
            compress(model, keep=0.6, sites="attention,ffn", **TEXTS)
        save(model, tmp_path / f"{most}")
        found.append(weights(tmp_path / f"{most}"))
        assert bool(written) == (most == 0)
    assert found[0] == found[1] and not any(file.exists() for file in written)


def test_a_row_gives_back_what_it_was_given():
    x = torch.arange(6.0).view(2, 3)
    values = [x, (x, None, "name", x.T), (None,), "name", x.clone().requires_grad_()]
    with shelving.limited(0):
        row = shelving.Row()
    for place, value in enumerate(values):
        row[place] = value
    assert len(row) == 5 and 4 in row and 5 not in row
    assert torch.equal(row[0], x) and row[4] is values[4] and list(row)[2:4] == values[2:4]
    one, two, three, four = row[1]
    assert torch.equal(one, x) and (two, three) == (None, "name") and torch.equal(four, x.T)


@LINUX
def test_room_keeps_weights_between_blocks(tmp_path):
    model = load(folder(tmp_path, "llama", **BLOCK), room=2**40)
    give_back()
    output(model)
    assert resident() > 0.9 * sum(p.nbytes for p in model.model.layers.parameters())
    give_back()
    assert resident() < 2**20


def test_what_is_changed_in_place_is_not_lost(tmp_path):
    model = load(folder(tmp_path, "bert"), room=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = copy.deepcopy(model.state_dict())
    give_back()
    settle(model)
    give_back()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_copy_outlives_the_model_and_its_files(tmp_path):
    path = folder(tmp_path, "llama")
    model = load(path, room=0)
    wanted, twin = output(model), copy.deepcopy(model)
    settle(twin)
    del model
    give_back()
    assert torch.equal(output(twin), wanted)


def test_a_model_that_was_made_in_memory_streams():
    model = pico("bert", "lm")
    wanted, held = output(model), stream(model, 0)
    settle(model)
    assert not sys.platform.startswith("linux") or all(map(held.holds, model.parameters()))
    give_back()
    assert torch.equal(output(model), wanted)
    held.stop()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_tensors_are_written_as_safetensors_writes_them(metadata, tmp_path):
    drawn = torch.Generator().manual_seed(0)
    tensors = {
        f"{(7 * k) % 31}é.{k}": (9 * torch.randn(k % 4 + 1, k % 3, generator=drawn)).to(dtype)
        for k, dtype in enumerate([*WRITTEN] * 3)
    } | {"scalar": torch.tensor(3.5), "turned": torch.arange(6).view(2, 3).T}
    one, other = tmp_path / "one", tmp_path / "other"
    write_tensors(tensors, one, metadata)
    save_file({k: t.contiguous() for k, t in tensors.items()}, other, metadata)
    assert one.read_bytes() == other.read_bytes()
    assert all(torch.equal(t, tensors[k]) for k, t in load_file(one).items())


def test_memory_streams_and_changes_no_byte(tmp_path, capsys, monkeypatch):
    path = folder(tmp_path, "llama")
    flags = ["--keep", "0.5", "--method", "svd", "--calibration", "none", "--json"]
    for name, more in {"whole": [], "parts": ["--memory", "100KB"]}.items():
        out = ["--out", str(tmp_path / name)]
        assert run(["compress", str(path), *flags, *more, *out]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report.get("streamed", False) == (name == "parts")
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_without_a_limit_the_free_memory_decides(tmp_path, capsys, monkeypatch):
    path = folder(tmp_path, "bert")
    flags = ["--rank", "2", "--calibration", "none", "--out", str(tmp_path / "out"), "--overwrite"]
    for free in (10**4, 10**12):
        free_now = type("Free", (), {"available": free})
        monkeypatch.setattr(limits.psutil, "virtual_memory", lambda now=free_now: now)
        assert run(["compress", str(path), *flags]) == 0
        assert ("block by block" in capsys.readouterr().err) == (free == 10**4)


@pytest.mark.parametrize("given", ["8", "0GB", "lots", "-1GB", "8 GB", "GB"])
def test_a_size_that_is_none_is_refused(given, capsys):
    assert run(["compress", "minilm", "--rank", "8", "--memory", given]) == 2
    told = capsys.readouterr().err
    assert "--memory must be a size such as 8GB or 500MB" in told and len(told.splitlines()) == 1


def test_sizes():
    assert size("8GB") == 8 * 10**9 and size("1.5MiB") == 3 * 2**19 and size("100B") == 100
    with pytest.raises(ValueError, match="is not a size"):
        size("8G")
