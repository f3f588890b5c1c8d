"""A quantized checkpoint holds the model that was rounded, bit for bit, in as few bytes as told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import auto, inputs, output, pico
from factored import FAMILY, assert_same, compressed, loaded, table_and_head

from tlmtool.failure import MissingDependency
from tlmtool.models import quantized
from tlmtool.models.checkpoint import load
from tlmtool.models.modeling import adopt
from tlmtool.models.packing import pack
from tlmtool.models.quantizing import choose, rounded_for_now, stored_bytes
from tlmtool.models.saving import save


def stored(model, folder: Path, *bits: int, **more) -> int:
    """Round a model, write it, and return the bytes of its tensors as counted before."""
    chosen = choose(model, *bits)
    if not chosen.plain:
        adopt(model)
    size = stored_bytes(model, chosen)
    save(model, folder, packed=pack(model, chosen), **more)
    return size


def numbers_in(folder: Path) -> int:
    """Bytes of the files of weights, without their headers."""
    found = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            found += file.stat().st_size - 8 - int.from_bytes(opened.read(8), "little")
    return found


@FAMILY
@pytest.mark.parametrize(("kind", "bits"), [("dense", (8,)), ("dense", (4, 8)), ("svd", (4,))])
def test_a_round_trip_is_exact(family, kind, bits, tmp_path):
    model = pico(family, "lm") if kind == "dense" else compressed(family, "lm", embedding=True)
    dense = sum(tensor.nbytes for tensor in model.state_dict().values())
    size = stored(model, tmp_path / "m", *bits)
    assert numbers_in(tmp_path / "m") == size < dense
    assert_same(load(tmp_path / "m"), model)
    assert_same(loaded(auto(family, "lm"), tmp_path / "m"), model)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("bits", [8, 4])
def test_transformers_alone_loads_a_model_without_factors(bits, tmp_path):
    model = pico("llama", "lm", tie_word_embeddings=True)
    stored(model, tmp_path / "m", bits)
    torch.save((inputs(model), output(model)), tmp_path / "truth.pt")
    code = f"""
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "m")!r})
x, y = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    print(float((model(**x).logits - y).abs().max()), "tlmtool" in sys.modules)
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", code]
    ran = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["0.0", "False"]


def test_bits_and_what_they_take(tmp_path):
    """4 bits in half of the bytes of 8, an embedding as it is asked for, a tied head once."""
    sizes = {}
    for bits in ((8, 8), (4, 4), (4, 16), (4, 8)):
        model = pico("llama", "lm", tie_word_embeddings=True)
        table = model.get_input_embeddings().weight.detach().clone()
        sizes[bits] = stored(model, tmp_path / f"{bits}", *bits)
        again = load(tmp_path / f"{bits}")
        embedding, head = table_and_head(again)
        assert embedding.weight is head.weight
        assert torch.equal(embedding.weight, table.half().float()) == (bits[1] == 16)
        assert again.dtype == torch.float32
    assert sizes[4, 4] < sizes[4, 8] < sizes[4, 16] and sizes[4, 4] < 0.7 * sizes[8, 8]


@pytest.mark.parametrize("kind", ["dense", "svd"])
def test_shards_and_bfloat16(kind, tmp_path):
    model = (pico("bert", "lm") if kind == "dense" else compressed("bert", "lm")).bfloat16()
    size = stored(model, tmp_path / "m", 8, max_shard_size="20KB")
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == numbers_in(tmp_path / "m") == size
    again = load(tmp_path / "m")
    assert again.dtype == torch.bfloat16
    assert_same(again, model)


def test_rounding_for_a_moment_leaves_nothing():
    model = pico("llama", "lm", tie_word_embeddings=True)
    before = {name: (value, value.clone()) for name, value in model.state_dict().items()}
    plain, chosen = output(model), choose(model, 4, 4)
    with rounded_for_now(model, chosen):
        changed = output(model)
        within = {name: value.clone() for name, value in model.state_dict().items()}
    assert not torch.equal(plain, changed)
    assert torch.equal(output(model), plain)
    after = model.state_dict()
    for name, (held, value) in before.items():
        assert torch.equal(after[name], value) and after[name].data_ptr() == held.data_ptr()
    pack(model, chosen)
    assert all(torch.equal(value, within[name]) for name, value in model.state_dict().items())


def test_what_is_no_matrix_or_too_narrow_is_named():
    chosen = choose(compressed("bert", name="tucker"), 8)
    left = {name.rpartition(".")[2] for name in chosen.left}
    assert left and "weight" not in left and all(name in chosen.widths for name in chosen.names)


def test_without_the_package_there_is_one_sentence(tmp_path, monkeypatch):
    model = pico("bert")
    stored(model, tmp_path / "m", 8)
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    for act in (lambda: load(tmp_path / "m"), lambda: pack(model, choose(model, 8))):
        with pytest.raises(MissingDependency, match=r"pip install 'tlmtool\[bits\]'"):
            act()
