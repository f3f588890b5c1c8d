"""Parameters and FLOPs against formulas; parts add up; nothing is copied or changed by counting."""

import json

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tlmtool.failure import Usage
from tlmtool.measuring.counting import (
    count_bytes,
    count_parameters,
    forward_flops,
    parameters_by_role,
)
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.profiling import forward_latency, profile

V, E, I, LAYERS = 50, 32, 64, 2  # noqa: E741
WIDE = {"vocab_size": V, "hidden_size": E, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
WIDE |= {"intermediate_size": I}
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
GPT2 = {"vocab_size": V, "n_embd": E, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": V, "d_model": E, "d_kv": 8, "d_ff": I, "num_layers": LAYERS, "num_heads": 4}
BART = {"vocab_size": V, "d_model": E, "encoder_layers": LAYERS, "decoder_layers": LAYERS}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
BART |= {"encoder_ffn_dim": I, "decoder_ffn_dim": I, "decoder_start_token_id": 2} | ENDS
OPT = {**{k: WIDE[k] for k in list(WIDE)[:4]}, "ffn_dim": I, "word_embed_proj_dim": E}
BUILD = {
    "bert": lambda: BertForMaskedLM(BertConfig(**WIDE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, **ENDS)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE, num_key_value_heads=2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT, **ENDS, max_position_embeddings=64)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART)),
    "bart-classifier": lambda: BartForSequenceClassification(BartConfig(**BART)),
    "gpt2-classifier": lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2, **ENDS)),
}
ROLES = {
    **{"query": "query", "key": "key", "value": "value", "c_attn": "qkv", "q": "query", "k": "key"},
    **{"v": "value", "q_proj": "query", "k_proj": "key", "v_proj": "value"},
    **{"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "fc1": "up", "fc2": "down"},
    **{"wi": "up", "wo": "down", "o_proj": "output", "out_proj": "output", "c_fc": "up"},
}


def roles_of(model: nn.Module) -> dict[str, str]:
    base = model.base_model
    names = {name: name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
    return {name: ROLES[last] for name, last in names.items() if last in ROLES}


class FactorizedLinear(nn.Module):
    """Two factors: (..., I) -> (..., R) -> (..., O)."""

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.ParameterDict(
            {"left": torch.randn(outputs, rank), "right": torch.randn(rank, inputs)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.einsum("bni,ri->bnr", x, self.weight["right"])
        return inner @ self.weight["left"].T


def test_flops_of_a_bert_layer_by_formula():
    batch, n = 3, 16
    model = BertModel(BertConfig(**WIDE), add_pooling_layer=False)
    roles = roles_of(model)
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        roles |= {f"{layer}attention.output.dense": "output", f"{layer}intermediate.dense": "up"}
        roles |= {f"{layer}output.dense": "down"}
    found = forward_flops(model, n, batch, roles)
    square, wide = 2 * batch * n * E * E * LAYERS, 2 * batch * n * E * I * LAYERS
    expected = {role: square for role in ("query", "key", "value", "output")}
    expected |= {"up": wide, "down": wide, "attention scores": 2 * 2 * batch * n * n * E * LAYERS}
    assert found == {"total": sum(expected.values()), "by_part": expected}


def test_flops_of_decoder_and_head_by_formula():
    n = 16
    model = BUILD["gpt2"]()
    found = forward_flops(model, n, 1, roles_of(model))["by_part"]
    assert found["qkv"] == 2 * n * E * 3 * E * LAYERS
    assert found["attention scores"] == 4 * n * n * E * LAYERS  # dense products: causality not used
    assert found["other"] == 2 * n * E * V + LAYERS * 2 * n * (
        E * E + 4 * E * E
    )  # head, two c_proj
    cross = forward_flops(BUILD["t5"](), n, 1, roles_of(BUILD["t5"]()))["by_part"]
    assert cross["attention scores"] == 3 * 4 * n * n * E * LAYERS  # encoder, decoder, cross
    assert cross["query"] == 3 * 2 * n * E * E * LAYERS


@pytest.mark.parametrize("kind", BUILD)
def test_parts_add_up_and_counting_changes_nothing(kind):
    model = BUILD[kind]()
    attention, training = model.config._attn_implementation, model.training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    roles = roles_of(model)
    found = forward_flops(model, 16, 2, roles)
    assert sum(found["by_part"].values()) == found["total"] > 0
    assert found["by_part"]["attention scores"] > 0
    assert set(roles.values()) <= set(found["by_part"])
    assert forward_flops(model, 16, 4, roles)["total"] == 2 * found["total"]
    assert (model.config._attn_implementation, model.training) == (attention, training)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in model.modules())
    with torch.device("meta"):
        bare = BUILD[kind]()
    assert forward_flops(bare, 16, 2, roles) == found  # a dry run, without weights


@pytest.mark.parametrize("kind", BUILD)
def test_roles_add_up_and_tied_weights_count_once(kind):
    model = BUILD[kind]()
    roles = roles_of(model)
    parts = parameters_by_role(model, roles)
    unique = {p.data_ptr(): p.numel() for p in model.parameters()}
    assert sum(parts.values()) == count_parameters(model) == sum(unique.values())
    assert count_bytes(model) == 4 * count_parameters(model)
    assert set(parts) == {*roles.values(), "other"}


def test_a_tied_head_belongs_to_the_embedding():
    model = BUILD["gpt2"]()
    name, head = "wte", "lm_head"
    assert model.get_submodule(head).weight is model.base_model.get_submodule(name).weight
    parts = parameters_by_role(model, {name: "embedding", head: "head"})
    assert parts["embedding"] == V * E and "head" not in parts
    with pytest.raises(Usage, match="has no module wtf"):
        parameters_by_role(model, {"wtf": "embedding"})


def test_factorized_sites_are_counted_by_their_own_products():
    n, rank = 16, 4
    model = BertModel(BertConfig(**WIDE), add_pooling_layer=False)
    dense = forward_flops(model, n, 1, roles_of(model))
    for layer in model.encoder.layer:
        layer.attention.self.query = FactorizedLinear(E, rank, E)
    roles = roles_of(model)
    found = forward_flops(model, n, 1, roles)
    assert found["by_part"]["query"] == LAYERS * 2 * n * rank * (E + E)
    rest = {name: flops for name, flops in found["by_part"].items() if name != "query"}
    assert rest == {name: flops for name, flops in dense["by_part"].items() if name != "query"}
    assert parameters_by_role(model, roles)["query"] == LAYERS * rank * (E + E)


def test_the_position_table_is_the_limit():
    tables = {"bert": 512, "gpt2": 64, "llama": None, "opt": 64, "t5": None, "bart": 64}
    assert {kind: position_limit(BUILD[kind]()) for kind in tables} == tables
    offset = RobertaModel(RobertaConfig(**WIDE, **ENDS, max_position_embeddings=66))
    assert position_limit(offset) == 64
    with torch.no_grad():
        offset(input_ids=torch.full((1, 64), 5))
        with pytest.raises((IndexError, RuntimeError)):
            offset(input_ids=torch.full((1, 65), 5))
    with pytest.raises(Usage, match=r"sequence length 65 .* 64 positions"):
        forward_flops(BUILD["gpt2"](), 65)
    with pytest.raises(Usage, match="sequence length 0"):
        forward_flops(BUILD["gpt2"](), 0)


def test_a_batch_that_the_head_refuses_is_a_sentence():
    model = GPT2ForSequenceClassification(GPT2Config(**GPT2, bos_token_id=2, eos_token_id=3))
    assert forward_flops(model, 8, 1)["total"] > 0
    with pytest.raises(Usage, match="cannot run a batch of 2"):
        forward_flops(model, 8, 2)


def test_latency_takes_turns():
    order = []
    models = {"a": BUILD["bert"](), "b": BUILD["gpt2"]()}
    for name, model in models.items():
        model.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    found = forward_latency(models, 8, 1, runs=3)
    assert order == ["a", "b"] * 5  # two to warm up
    for line in found.values():
        assert 0 < line["min"] <= line["median"] <= line["max"] and line["runs"] == 3
    with pytest.raises(Usage, match="runs is 0"):
        forward_latency(models, 8, 1, runs=0)


def test_the_profile_has_its_keys():
    models = [(kind, BUILD[kind](), roles_of(BUILD[kind]())) for kind in ("bert", "t5")]
    found = json.loads(json.dumps(profile(models, [8, 16], batch=2, latency=True, runs=1)))
    assert "2 FLOPs" in found["note"]
    for (kind, model, roles), entry in zip(models, found["models"], strict=True):
        assert entry["id"] == kind and entry["parameters"] == count_parameters(model)
        assert [run["seq_len"] for run in entry["runs"]] == [8, 16]
        for run in entry["runs"]:
            counted = forward_flops(model, run["seq_len"], 2, roles)
            assert (run["flops"], run["by_part"]) == (counted["total"], counted["by_part"])
            assert run["batch"] == 2 and run["latency_ms"]["median"] > 0
    assert profile(models[:1], [8])["models"][0]["runs"][0]["latency_ms"] is None
    with pytest.raises(Usage, match="512 positions"):
        profile(models, [8, 1024])
    with pytest.raises(Usage, match="one id"):
        profile([models[0], models[0]], [8])
