"""A checkpoint of any type: known to the Auto classes, with a scaled table, without its head."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import SIZES, E, apart, output, pico, sentences, word_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.models.auto import modeling_auto
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from tlmtool import load, merge
from tlmtool.cli import run
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.models import checkpoint
from tlmtool.models.factorized import scale_of
from tlmtool.models.fitting import loading_class
from tlmtool.models.modeling import adopt, config_class
from tlmtool.models.surgery import factorize, sites
from tlmtool.tasks.table import TASKS
from tlmtool.training.heads import head_of

CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
MASKED = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
SEQ2SEQ = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


def small(kind: str, **more) -> torch.nn.Module:
    """A small decoder of a type."""
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **ends, **more})
    return AutoModelForCausalLM.from_config(config).eval()


def factored(model: torch.nn.Module) -> torch.nn.Module:
    """The model with factors of rank 4 for every linear, as one of our types."""
    factorize(model, {s: SVD(4) for s, role in sites(model).items() if role != "embedding"})
    return adopt(model)


def test_every_type_is_known_after_the_import_and_none_is_made_by_it():
    code = """
import sys, tlmtool
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
AutoConfig.for_model("tlm-gpt_neox")
assert all(f"tlm-{kind}" in CONFIG_MAPPING for kind in CONFIG_MAPPING_NAMES)
made = [name for name in sys.modules if name.startswith("transformers.models.")]
made = [name for name in made if "configuration" in name]
assert any("gpt_neox" in name for name in made) and len(made) < 40, made
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_type_that_shares_the_class_of_another_has_a_class_of_its_own(tmp_path):
    model = factored(small("internlm3"))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(output(again), output(model))
    assert again.config.model_type == "tlm-internlm3" and isinstance(again, LlamaForCausalLM)
    assert type(again) is loading_class(json.loads((tmp_path / "config.json").read_text()))
    assert type(again) is not type(factored(small("llama")))
    assert type(merge(again)) is LlamaForCausalLM and again.config.model_type == "internlm3"


@pytest.mark.parametrize("scale", ["a number", "a tensor"])
def test_a_scaled_table_keeps_its_scale(scale, tmp_path):
    """bart keeps the scale of its table as a number, gemma in a buffer that no file holds."""
    model = small("gemma") if scale == "a tensor" else pico("bart", "lm", scale_embedding=True)
    truth = output(model)
    table = next(site for site, role in sites(model).items() if role == "embedding")
    factorize(model, {table: SVD(E)})
    assert apart(output(model), truth) < 1e-4
    adopt(model).save_pretrained(tmp_path)
    again = load(tmp_path)
    assert torch.equal(output(again), output(model))
    assert apart(output(merge(again)), truth) < 1e-4
    assert scale_of(again.get_input_embeddings()) == pytest.approx(E**0.5)


@pytest.mark.parametrize("pooler", [True, False])
def test_a_body_under_the_name_of_a_head_is_loaded_as_such(pooler, tmp_path):
    """The config.json of many sentence encoders still names the class of their pretraining."""
    kind = pico("bert", "base", 0) if pooler else pico("distilbert")
    kind.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    named = "BertForMaskedLM" if pooler else "DistilBertForMaskedLM"
    (tmp_path / "config.json").write_text(json.dumps(kept | {"architectures": [named]}))
    said: list[str] = []
    model = load(tmp_path, warn=said.append)
    assert type(model) is type(kind) and torch.equal(output(model), output(kind))
    assert len(said) == 1 and named in said[0] and "its body alone is loaded" in said[0]
    assert type(checkpoint.empty(tmp_path, warn=said.append)) is type(kind)
    assert checkpoint.described(tmp_path)["architectures"] == [type(kind).__name__]


def test_a_head_that_lacks_a_part_is_still_refused(tmp_path):
    model = pico("bert", "lm")
    weights = {k: v for k, v in model.state_dict().items() if "transform.dense.bias" not in k}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(checkpoint.NotLoadable, match=r"lacks 1 weights, such as cls\.predictions"):
        load(tmp_path)


def test_the_tokenizer_of_a_type_is_that_of_its_base(tmp_path):
    """AutoTokenizer corrects a wrong class in tokenizer_config.json by the type of the model."""
    word_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "BertTokenizer"}))
    small("phi3").save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    factored(small("phi3")).save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(plain)
    assert config_class("phi3").model_type in TOKENIZER_MAPPING_NAMES


def test_a_head_for_language_is_known_by_the_class_that_transformers_has():
    for task, kinds in (("clm", CAUSAL), ("mlm", MASKED)):
        for kind in set(kinds) - set(SEQ2SEQ) - (set(MASKED) if task == "clm" else set()):
            names = [kinds[kind]] if isinstance(kinds[kind], str) else kinds[kind]
            for name in (names[0], f"Tlm{names[0]}"):
                config = {"model_type": kind, "architectures": [name]}
                assert head_of(config, "m", TASKS[task])[2], (kind, name)
            config["architectures"] = ["NoSuchModel"]
            assert not head_of(config, "m", TASKS[task])[2], kind
    with pytest.raises(Usage, match="a clip_text_model has no head that gives words"):
        head_of({"model_type": "clip_text_model"}, "m", TASKS["clm"])


def test_a_new_model_of_a_type_without_a_row(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("\n".join(sentences(60)))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    sets = [word for k, v in sizes.items() for word in ("--set", f"config.{k}={v}")]
    words = ["finetune", "--from-config", "gpt_neox", "--task", "clm", "--steps", "1", *sets]
    words += ["--data", str(tmp_path / "t.txt"), "--vocab-size", "300", "--max-length", "16"]
    assert run([*words, "--out", str(tmp_path / "o"), "-q"]) == 0
    assert type(load(tmp_path / "o")).__name__ == "GPTNeoXForCausalLM"
    assert run(["finetune", "--from-config", "gpt_neoxx", *words[3:], "--out", "x"]) == 2
    assert "did you mean gpt_neox?" in capsys.readouterr().err
