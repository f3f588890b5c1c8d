"""Ways of transformers and accelerate to run a model, beside kernels: right, or one sentence."""

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from conftest import apart, auto, output, pico
from test_attending import made
from test_caches import text
from test_offload import compressed, memory
from transformers import AutoConfig

WHOLE = ["FactorizedLinear", "FactorizedEmbedding"]
LAYERS = {"all": slice(None), "one": slice(0, 1)}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    """Of the real tokens of a padded row."""
    return model(**text(2)).logits[1, 3:]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(("family", "kernel"), [("llama", "decay"), ("bert", "dimensionwise")])
def test_flex_attention_gives_the_same(family, kernel, layers, tmp_path):
    model = made(family, kernel, layers=LAYERS[layers])
    expected = logits(model)
    model.save_pretrained(tmp_path)
    again = auto(family, "lm").from_pretrained(tmp_path, attn_implementation="flex_attention")
    assert again.config._attn_implementation == "flex_attention"
    assert apart(logits(again.eval()), expected) < 1e-5


@torch.no_grad()
def test_several_texts_in_a_row_are_refused():
    ids, start = text()["input_ids"], [*range(4), *range(6)]
    packed = {"input_ids": ids, "position_ids": torch.tensor([start]), "use_cache": False}
    dense = pico("llama", "lm")
    parts = [dense(input_ids=part).logits for part in (ids[:, :4], ids[:, 4:])]
    assert apart(dense(**packed).logits, torch.cat(parts, 1)) < 1e-5  # transformers sees two texts
    model = made("llama", "decay")
    ends = {"cu_seq_lens_q": torch.tensor([0, 4, 10])}
    for more in ({}, ends):
        with pytest.raises(ValueError, match="one text a row"):
            model(**packed, **more)
    with pytest.raises(ValueError, match="call generate"):
        model.generate_batch(inputs=ids.tolist())
    model(**packed | {"position_ids": torch.arange(10)[None]})


@pytest.mark.parametrize("made_by", ["svd", "btd", "kernel"])
@pytest.mark.parametrize("where", ["cpu", "auto", "half"])
def test_a_checkpoint_that_accelerate_dispatches(made_by, where, tmp_path):
    model = made("llama", "decay") if made_by == "kernel" else compressed("llama", made_by)
    model.save_pretrained(tmp_path)
    with init_empty_weights():
        empty = auto("llama", "lm").from_config(AutoConfig.from_pretrained(tmp_path))
    empty.tie_weights()
    room = {"cpu": 3 * memory(model)["cpu"] // 2} if where == "half" else None
    whole = {"device_map": {"": "cpu"} if where == "cpu" else "auto", "max_memory": room}
    kept = {"offload_folder": tmp_path / "kept", "no_split_module_classes": WHOLE}
    again = load_checkpoint_and_dispatch(empty, tmp_path, **whole, **kept).eval()
    assert where != "half" or "disk" in again.hf_device_map.values()
    assert torch.equal(output(again), output(model))
