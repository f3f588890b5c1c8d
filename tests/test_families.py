"""The sites of every family, counted: a rename in transformers fails here by name."""

from collections import Counter

import pytest
import torch
from conftest import CASES, CONFIGS, SEQ2SEQ, pico, type_of
from expected_roles import ENDINGS, expected
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertModel, T5EncoderModel
from transformers.pytorch_utils import Conv1D

from tlmtool.decompositions.btd import BTD
from tlmtool.models.architectures import ARCHITECTURES
from tlmtool.models.attending import heads_of
from tlmtool.models.factorized import dense_weight, shape
from tlmtool.models.kernels import attending
from tlmtool.models.roles import ATTENTION, GROUPS
from tlmtool.models.surgery import factorize, modes, sites

SEPARATE = ("query", "key", "value", "output")
LAYERS = 2  # of a pico model; of its encoder and of its decoder where it has both


def in_blocks(model: nn.Module) -> dict[str, str]:
    """{site: role} without what stands outside of attention and feed-forward."""
    return {site: role for site, role in sites(model).items() if role != "other"}


def counts(family: str) -> dict[str, int]:
    """{role: sites} of a pico model, by its config: a layer has one feed-forward block and one
    attention block, and a layer of a decoder that reads an encoder has two of these."""
    both = pico(family).config.is_encoder_decoder
    roles = {*ENDINGS[family]} - {"embedding"}
    found = {role: LAYERS * (3 if both else 1) for role in roles if role in ATTENTION}
    found |= {role: LAYERS * (2 if both else 1) for role in roles if role not in ATTENTION}
    return {**found, "embedding": 1}


def test_every_row_of_the_table_has_a_pico_model():
    assert {type_of(family) for family in CONFIGS} == set(ARCHITECTURES)
    assert {*ENDINGS} == {*CONFIGS}


def test_counts_of_sites_by_example():
    """What `counts` derives, written out for one family of each kind."""
    attention = dict.fromkeys(("query", "key", "value", "output"), 2)
    assert counts("bert") == {**attention, "up": 2, "down": 2, "embedding": 1}
    assert counts("gpt2") == {"qkv": 2, "output": 2, "up": 2, "down": 2, "embedding": 1}
    assert counts("llama") == {**attention, "gate": 2, "up": 2, "down": 2, "embedding": 1}
    attention = dict.fromkeys(attention, 6)
    assert counts("t5") == {**attention, "up": 4, "down": 4, "embedding": 1}
    assert counts("t5-gated") == {**attention, "gate": 4, "up": 4, "down": 4, "embedding": 1}


@pytest.mark.parametrize(("family", "head"), CASES)
def test_number_of_sites_of_each_role(family, head):
    model = pico(family, head)
    found = in_blocks(model)
    assert found == expected(model, family) and list(found) == list(expected(model, family))
    assert Counter(found.values()) == counts(family)
    assert set(found.values()) <= set(GROUPS["all"])
    for site, role in found.items():
        module = model.base_model.get_submodule(site)
        assert isinstance(module, nn.Embedding if role == "embedding" else (nn.Linear, Conv1D))
    if head != "base":  # heads have none of their own
        assert found == in_blocks(pico(family))


@pytest.mark.parametrize("family", CONFIGS)
def test_no_linear_of_a_layer_is_forgotten(family):
    model = pico(family)
    linears = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and any(part.isdigit() for part in name.split("."))
    }
    assert linears == {site for site, role in in_blocks(model).items() if role != "embedding"}


@pytest.mark.parametrize("family", CONFIGS)
def test_shapes_tell_roles_apart(family):
    """Width 32, feed-forward 48: a role given to another's module has its shape."""
    model = pico(family)
    query, kv = (32, 32), (32 if "num_key_value_heads" not in CONFIGS[family] else 16, 32)
    shapes = {"query": query, "output": query, "key": kv, "value": kv, "qkv": (96, 32)}
    shapes |= {"gate": (48, 32), "up": (48, 32), "down": (32, 48)}
    shapes["embedding"] = (99, CONFIGS[family].get("embedding_size", 32))
    for site, role in in_blocks(model).items():
        assert shape(model.base_model.get_submodule(site)) == shapes[role], site


@pytest.mark.parametrize("family", CONFIGS)
def test_modes_of_attention_projections_are_heads_and_width(family):
    model = pico(family)
    kv = (2, 8) if "num_key_value_heads" in CONFIGS[family] else (4, 8)
    split = {"query": (4, 8), "output": (4, 8), "qkv": (12, 8), "key": kv, "value": kv}
    for site, role in sites(model).items():
        assert modes(model, site, role) == split.get(role), site


def test_modes_split_a_projection_into_its_heads():
    """What a head computes depends on its own slice of the first mode alone."""
    model = pico("gpt2")
    site = "h.0.attn.c_attn"
    h, d = modes(model, site, "qkv")
    w = dense_weight(model.get_submodule(site)).reshape(h, d, 32)
    query, key, value = dense_weight(model.get_submodule(site)).split(32)
    assert torch.equal(w[:4].flatten(0, 1), query) and torch.equal(w[4:8].flatten(0, 1), key)
    assert torch.equal(w[8:].flatten(0, 1), value)


def test_modes_where_a_head_is_wider_than_its_share():
    model = pico("qwen3", head_dim=16)
    found = {role: modes(model, site, role) for site, role in sites(model).items()}
    assert found["query"] == (4, 16) and found["key"] == (2, 16)
    assert found["output"] == (4, 8)  # its outputs are the model width, 32
    model = pico("t5", d_kv=4)
    found = {role: modes(model, site, role) for site, role in sites(model).items()}
    assert found["query"] == found["key"] == (4, 4) and found["output"] == (4, 8)


def test_modes_where_encoder_and_decoder_differ():
    model = pico("bart", decoder_attention_heads=2)
    for site, role in sites(model).items():
        if role in ("query", "key", "value", "output"):
            heads = (2, 16) if site.startswith("decoder.") else (4, 8)
            assert modes(model, site, role) == heads, site


def test_cross_attention_of_a_bert_decoder():
    config = BertConfig(
        **CONFIGS["bert"], is_decoder=True, add_cross_attention=True, bos_token_id=0, eos_token_id=2
    )
    model = BertModel(config)
    found = in_blocks(model)
    assert Counter(found.values()) == {**counts("bert"), **dict.fromkeys(SEPARATE, 4)}
    cross = {site: role for site, role in found.items() if "crossattention" in site}
    assert Counter(cross.values()) == dict.fromkeys(SEPARATE, 2)
    assert modes(model, "encoder.layer.1.crossattention.self.key", "key") == (4, 8)
    before = AutoModelForCausalLM.from_config(config)
    assert in_blocks(before) == found


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_one_shared_table_is_one_site(family):
    model = pico(family, "lm")
    assert [s for s, r in sites(model).items() if r == "embedding"] == ["shared"]


def test_half_of_an_encoder_decoder_has_sites_of_its_own():
    model = T5EncoderModel(pico("t5").config)
    assert Counter(sites(model).values()) == counts("bert")


def test_order_is_the_models_own():
    found = list(sites(pico("bert")))
    assert found == sorted(found, key=[n for n, _ in pico("bert").named_modules()].index)
    assert found[1] == "encoder.layer.0.attention.self.query"


def test_sites_do_not_change_when_factorized():
    model = pico("bert", "lm")
    before = sites(model)
    factorize(model, {"encoder.layer.0.attention.self.query": BTD(3, blocks=2, modes=(4, 8))})
    assert sites(model) == before


def test_errors_of_a_plan_name_the_site():
    model, site = pico("bert"), "encoder.layer.1.output.dense"
    with pytest.raises(ValueError, match=rf"{site}: rank 49 is above 48"):
        factorize(model, {site: BTD(49)})
    with pytest.raises(ValueError, match=r"word_embeddings: .* takes svd, not btd"):
        factorize(model, {"embeddings.word_embeddings": BTD(3)})


def test_a_family_with_names_of_its_own_is_told_where_to_add_them():
    odd = nn.Module()
    odd.config = nn.Module()
    with pytest.raises(ValueError, match=r"has num_attention_heads or .*models/attending\.py"):
        heads_of(odd)


def test_classes_are_made_once_however_many_there_are():
    several = [type(f"Attention{i}", (nn.Module,), {}) for i in range(200)]
    made = [attending(each) for each in several]
    assert [attending(each) for each in several] == made
