"""Merging is the inverse of factorizing, and a factorized embedding shares its factors."""

import copy
import json
import pickle
from math import prod

import pytest
import torch
from conftest import CASES, CAUSAL, SEQ2SEQ, auto, inputs, output, pico, type_of
from factored import (
    FAMILY,
    assert_same,
    compressed,
    first_token,
    loaded,
    parameters,
    plan_for,
    relative,
    table_and_head,
)
from safetensors import safe_open
from test_laws import ALONE

from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.models import modeling
from tlmtool.models.factorized import FactorizedLinear
from tlmtool.models.surgery import factorize, factorized, sites


@FAMILY
@pytest.mark.parametrize("tie", [True, False])
def test_a_factorized_embedding_and_its_head(family, tie, tmp_path):
    dense = pico(family, "lm", tie_word_embeddings=tie)
    was_tied = table_and_head(dense)[0].weight is table_and_head(dense)[1].weight
    assert was_tied == tie or family in SEQ2SEQ
    model = pico(family, "lm", tie_word_embeddings=tie)
    (site,) = [s for s, r in sites(model).items() if r == "embedding"]
    factorize(model, {site: SVD(5)})
    modeling.adopt(model)
    v, e = table_and_head(dense)[0].weight.shape
    saved = v * e - 5 * (v + e)
    assert parameters(dense) - parameters(model) == saved  # once, however many modules share it
    table, head = table_and_head(model)
    shared = isinstance(head, FactorizedLinear)
    assert shared == was_tied
    if shared:
        w = table.dense_weight()
        states = torch.randn(3, e)
        with torch.no_grad():
            bias = head.bias_parameter()
            expected = states @ w.T + (0 if bias is None else bias)
            torch.testing.assert_close(head(states), expected)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        stored = sum(prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    held = parameters(model) + sum(b.numel() for b in model.buffers())
    assert stored <= held, "the shared table is stored twice"
    again = loaded(auto(family, "lm"), tmp_path)
    assert_same(again, model)
    for one in (model, again):
        assert parameters(dense) - parameters(one) == saved
        table, head = table_and_head(one)
        if shared:
            assert all(head.factors[k] is f for k, f in table.factors.items())
            one.zero_grad()
            one(**inputs(one))[0].square().sum().backward()
            with torch.no_grad():
                for f in table.factors.values():
                    f.sub_(0.01 * f.grad)
            torch.testing.assert_close(head.dense_weight(), table.dense_weight())


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
@pytest.mark.parametrize("name", ["svd", "btd"])
def test_generate_with_a_cache_equals_the_merged_models(family, name, tmp_path):
    model = compressed(family, "lm", name, embedding=True)
    model.save_pretrained(tmp_path)
    model = loaded(auto(family, "lm"), tmp_path)
    given = {**first_token(model), "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with_cache = model.generate(**given, use_cache=True)
    assert with_cache.shape[1] >= 8
    assert torch.equal(model.generate(**given, use_cache=False), with_cache)
    assert torch.equal(modeling.merge(model).generate(**given, use_cache=True), with_cache)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_merge_is_a_plain_checkpoint_with_parity(family, head, name, tmp_path):
    dense, model = pico(family, head), compressed(family, head, name, embedding=True)
    given, before = inputs(model), output(model)
    merged = modeling.merge(model)
    assert type(merged) is type(dense) and type(merged.config) is type(dense.config)
    assert not list(factorized(merged))
    assert relative(output(merged), before) <= 1e-5
    assert merged.state_dict().keys() == dense.state_dict().keys()
    assert [n for n, _ in merged.named_parameters()] == [n for n, _ in dense.named_parameters()]
    assert parameters(merged) == parameters(dense)
    merged.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["model_type"] == type_of(family) and "tlm" not in str(kept).lower()
    again = loaded(type(dense), tmp_path)
    assert type(again) is type(dense)
    with torch.no_grad():
        assert torch.equal(again(**given)[0], output(merged))


@FAMILY
def test_merge_of_full_rank_gives_the_original(family):
    dense, model = pico(family, "lm"), pico(family, "lm")
    plan = {s: SVD() if r == "embedding" else BTD() for s, r in sites(model).items()}
    factorize(model, plan)
    modeling.adopt(model)
    assert relative(output(model), output(dense)) <= 1e-4
    merged = modeling.merge(model)
    for key, tensor in dense.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[key], tensor, rtol=1e-4, atol=1e-5)


def test_a_merged_model_can_be_factorized_again(tmp_path):
    model = modeling.merge(compressed("bart", "lm", "btd", embedding=True))
    factorize(model, plan_for(model, "svd", embedding=True))
    modeling.adopt(model)
    model.save_pretrained(tmp_path)
    assert_same(loaded(auto("bart", "lm"), tmp_path), model)


def test_what_cannot_be_trained_stays_so():
    model = pico("bert", "lm").requires_grad_(False)
    factorize(model, plan_for(model, "svd", embedding=True))
    frozen = [n for n, p in modeling.merge(model).named_parameters() if p.requires_grad]
    assert not frozen


@pytest.mark.parametrize("name", ALONE)
def test_deepcopy_and_pickle(name):
    model = compressed("gpt2", "lm", name, embedding=True)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(again, model)
        table, head = table_and_head(again)
        assert head.factors["left"] is table.factors["left"]
        assert head.factors["left"] is not table_and_head(model)[0].factors["left"]
        assert relative(output(modeling.merge(again)), output(model)) <= 1e-5
