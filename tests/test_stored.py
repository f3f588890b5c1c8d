"""Files of weights: their dtypes, their index, and what is refused in them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import output, pico
from folders import edit, heard, rewrite
from safetensors.torch import load_file, save_file

from tlmtool.failure import NotLoadable
from tlmtool.models.checkpoint import empty, load
from tlmtool.models.saving import save


@pytest.fixture
def masked(tmp_path) -> Path:
    """A bert with the head of its language model."""
    return save(pico("bert", "lm"), tmp_path / "masked")


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
