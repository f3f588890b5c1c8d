"""A converted checkpoint re-loads exactly, in every family, with every decomposition and head."""

import copy
import json
import pickle

import pytest
import torch
from conftest import CASES, auto, inputs, output, pico, type_of
from factored import FAMILY, assert_same, compressed, first_token, loaded, relative
from test_laws import ALONE
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.models import modeling
from tlmtool.models.refusing import number_in
from tlmtool.models.surgery import factorize, factorized, plan_of, sites


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_reload_is_exact(family, head, name, tmp_path):
    model = compressed(family, head, name)
    assert not torch.allclose(output(model), output(pico(family, head)), rtol=0.01)
    assert len(plan_of(model)) == len(sites(model)) - 1  # all but the embedding
    model.save_pretrained(tmp_path)
    assert_same(loaded(auto(family, head), tmp_path), model)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_reload_with_a_factorized_embedding_is_exact(family, head, tmp_path):
    model = compressed(family, head, "btd", embedding=True)
    model.save_pretrained(tmp_path)
    assert_same(loaded(auto(family, head), tmp_path), model)


@FAMILY
def test_the_config_survives_its_own_round_trips(family, tmp_path):
    config = compressed(family, embedding=True).config
    assert config.model_type == f"tlm-{type_of(family)}"
    config.save_pretrained(tmp_path)
    (spread,) = number_in(config)
    for again in (
        AutoConfig.from_pretrained(tmp_path),
        type(config)(**config.to_dict()),
        type(config).from_json_file(tmp_path / "config.json"),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert type(again) is type(config) and again.tlm == config.tlm
        assert getattr(again, spread) == getattr(config, spread)
        assert isinstance(getattr(again, spread), float)
    kept = json.loads((tmp_path / "config.json").read_text())["tlm"]
    assert kept["version"] == 1 and len(kept["plan"]) < len(plan_of(compressed(family)))


@FAMILY
def test_another_head_finds_the_factors(family, tmp_path):
    """Saved with a language-model head, opened bare and as a classifier: the same features."""
    model = compressed(family, "lm", "btd", embedding=True)
    model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    assert plan_of(bare) == plan_of(model)
    given = inputs(bare)
    with torch.no_grad():
        out = model.base_model(**given, output_hidden_states=True)  # of t5 with its head
        truth = out[0] if model.base_model is not model else out.decoder_hidden_states[-1]
        assert torch.equal(bare(**given)[0], truth)
        if (family, "classification") in CASES:
            classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
            assert plan_of(classifier) == plan_of(model) and classifier.config.num_labels == 3
            assert torch.equal(classifier.base_model(**given)[0], truth)
            assert output(classifier).isfinite().all()


def test_a_model_opened_bare_gets_a_head(tmp_path):
    model = compressed("bert", "base", "btd")
    model.save_pretrained(tmp_path)
    tagger = AutoModelForTokenClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(tagger.bert(**inputs(model))[0], output(model))
    tagger.save_pretrained(tmp_path / "tagger")
    assert_same(loaded(AutoModelForTokenClassification, tmp_path / "tagger"), tagger)


@FAMILY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loads_in_half_precision(family, dtype, tmp_path):
    model = compressed(family, "lm", "btd", embedding=True)
    model.save_pretrained(tmp_path)
    half = loaded(auto(family, "lm"), tmp_path, dtype=dtype)
    kept = {p.dtype for n, p in half.named_parameters() if "norm" not in n}
    assert dtype in kept and kept <= {dtype, torch.float32}
    if not half._keep_in_fp32_modules:
        assert kept == {dtype}
    y = output(half).float()
    assert y.isfinite().all() and relative(y, output(model)) < 0.25
    half.save_pretrained(tmp_path / "half")
    assert_same(loaded(auto(family, "lm"), tmp_path / "half"), half)
    if half.can_generate() and family != "bart":
        half.generate(**first_token(half), max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_t5_keeps_in_float32_what_it_keeps_when_dense(family, tmp_path):
    """fp16 overflows in the last linear of its feed-forward: transformers keeps `wo` in fp32."""
    for name in ("svd", "btd"):
        compressed(family, "lm", name).save_pretrained(tmp_path / name)
        model = loaded(auto(family, "lm"), tmp_path / name, dtype=torch.float16)
        for path, module in factorized(model):
            found = {f.dtype for f in module.factors.values()}
            assert found == {torch.float32 if path.endswith(".wo") else torch.float16}, path
        tokens = model.generate(**first_token(model), max_new_tokens=4, do_sample=False)
        assert tokens.shape[1] >= 2 and output(model).isfinite().all()


@FAMILY
def test_half_in_place(family):
    for name in ALONE:
        model = compressed(family, "base", name, embedding=True)
        truth = output(model)
        for cast in ("half", "bfloat16", "double"):
            y = output(getattr(copy.deepcopy(model), cast)())
            assert y.isfinite().all() and relative(y.float(), truth) < 0.25


def test_sharded_folder(tmp_path):
    model = compressed("llama", "lm", "btd", embedding=True)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_same(loaded(auto("llama", "lm"), tmp_path), model)


def test_saving_again_after_a_change_saves_the_live_plan(tmp_path):
    model = pico("bert", "lm")
    first, second = [s for s, r in sites(model).items() if r == "query"]
    factorize(model, {first: SVD(4)})
    modeling.adopt(model)
    factorize(model, {second: BTD(2, blocks=2, modes=(4, 8))})
    factorize(model, {first: SVD(3)})  # factors of factors
    model.save_pretrained(tmp_path)
    again = loaded(auto("bert", "lm"), tmp_path)
    assert plan_of(again) == {first: SVD(3), second: BTD(2, blocks=2, modes=(4, 8))}
    assert_same(again, model)
    again.save_pretrained(tmp_path / "again")  # a re-loaded model saves as well
    assert_same(loaded(auto("bert", "lm"), tmp_path / "again"), model)


def test_a_plan_of_a_newer_version_is_refused(tmp_path):
    compressed("bert").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    kept["tlm"]["version"] = 2
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"version 2, this tlm reads up to 1: upgrade tlmtool"):
        AutoModel.from_pretrained(tmp_path)


def test_a_plan_that_does_not_fit_is_refused(tmp_path):
    compressed("bert").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    kept["tlm"]["plan"][0]["decomposition"]["rank"] = 900
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"layer.0.attention.self.query: rank 900 is above 32"):
        AutoModel.from_pretrained(tmp_path)
    kept["tlm"]["plan"][0]["decomposition"] = {"name": "qr"}
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"unknown decomposition 'qr'; known: btd"):
        AutoModel.from_pretrained(tmp_path)


@FAMILY
@pytest.mark.parametrize("name", ALONE)
def test_the_skeleton_on_meta_has_the_right_sizes(family, name):
    """What a dry run counts is what is made."""
    real = compressed(family, "lm", name, embedding=True)
    with torch.device("meta"):
        empty = auto(family, "lm").from_config(pico(family, "lm").config)
    factorize(empty, plan_of(real))
    sizes = {n: p.shape for n, p in empty.named_parameters()}
    assert sizes == {n: p.shape for n, p in real.named_parameters()}
    assert all(p.is_meta for p in empty.parameters())
