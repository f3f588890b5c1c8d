"""Broken checkpoints: one sentence that says what is wrong, an exit code of 4, nothing written."""

import json

import pytest
import refusals
import torch
from refusals import RANK
from safetensors.torch import load_file, save_file

dense, broken, refused = refusals.dense, refusals.broken, refusals.refused  # its fixtures


@pytest.mark.parametrize("verb", ["compress", "merge", "profile", "evaluate"])
def test_a_model_that_does_not_exist(refused, tmp_path, verb):
    more = {"compress": RANK, "evaluate": ("--task", "mlm")}.get(verb, ())
    assert "does not exist" in refused(4, tmp_path / "nowhere", *more, verb=verb)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(4, tmp_path / "file", *more, verb=verb)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "has no config.json"),
        ("{broken", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        ("[" * 99999, "cannot be read as JSON"),
        ("[1]", "holds list, not an object"),
        ("{}", "model type None, which transformers"),
        ({"model_type": "bertt"}, "model type 'bertt', which transformers"),
        ({"model_type": "vit"}, "model type 'vit', which reads no text"),
        ({"model_type": ["bert"]}, "model type ['bert'], which transformers"),
        ({"model_type": "tlm-bert"}, "no plan under the key tlm"),
        ({"model_type": "gpt2"}, "has type gpt2 but the class BertForMaskedLM"),
        ({"architectures": ["BertForDancing"]}, "BertForDancing, which transformers lacks"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantized already"),
        ({"vocab_size": 98}, "is (99, 32) in the file but (98, 32) by config.json"),
        ({"num_hidden_layers": 3}, "lacks 16 weights, such as bert.encoder.layer.2."),
        ({"num_attention_heads": -1}, "cannot run with its config.json"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"hidden_act": "magic"}, "cannot be loaded"),
        ({"dtype": 3}, "cannot be loaded"),
    ],
)
def test_config(refused, broken, config, says):
    file = broken / "config.json"
    if config is None:
        file.unlink()
    elif isinstance(config, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    else:
        file.write_bytes(config if isinstance(config, bytes) else config.encode())
    assert says in refused(4, broken, *RANK)


def without(name):
    return lambda weights: {k: v for k, v in weights.items() if name not in k}


def with_one(name, number):
    def change(weights):
        (key,) = [k for k in weights if name in k]
        weights[key].flatten()[0] = number
        return weights

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[: len(raw) // 2], "is damaged or no safetensors file"),
        (lambda raw: b"", "is damaged or no safetensors file"),
        (lambda raw: b"garbage" * 99, "is damaged or no safetensors file"),
        (with_one("layer.1.output.dense.weight", float("nan")), "holds NaN or infinity"),
        (with_one("word_embeddings.weight", float("inf")), "word_embeddings.weight holds NaN"),
        (without("layer.0.attention.self.key.weight"), "lacks 1 weights, such as bert.encoder"),
    ],
)
def test_weights(refused, broken, damage, says):
    file = broken / "model.safetensors"
    try:
        file.write_bytes(damage(file.read_bytes()))
    except (AttributeError, TypeError):
        save_file(damage(load_file(file)), file, {"format": "pt"})
    assert says in refused(4, broken, *RANK)


def test_a_pickle_is_not_opened(refused, broken):
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    assert "as a pickle (pytorch_model.bin), which can run code" in refused(4, broken, *RANK)
    (broken / "pytorch_model.bin").unlink()
    assert "has no model.safetensors" in refused(4, broken, *RANK)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {"a": "gone.safetensors"}}'])
def test_an_index_of_shards(refused, broken, index):
    (broken / "model.safetensors.index.json").write_text(index)
    (broken / "model.safetensors").rename(broken / "a.safetensors")
    sentence = refused(4, broken, *RANK)
    assert "has no gone" in sentence if "gone" in index else "is not an index" in sentence


def test_a_tokenizer_that_is_broken_or_of_another_model(refused, broken):
    (broken / "tokenizer.json").write_text("{}")
    assert "the tokenizer in" in refused(4, broken, "--rank", 2)
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer_config.json").unlink()
    text = ("--calibration", broken.parent / "t.txt")
    (broken.parent / "t.txt").write_text("the cat sat")
    assert "no tokenizer, so --calibration" in refused(4, broken, "--rank", 2, *text)
    assert "no tokenizer" in refused(4, broken, "--task", "mlm", verb="evaluate")
