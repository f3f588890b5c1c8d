"""Guards roles: they are read off what a model computes, and its names are hints at most."""

import copy
import re

import pytest
import torch
import transformers
from conftest import SIZES, TOKENS, V, pico
from torch import nn
from transformers import AutoConfig, LlamaConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from tlmtool.compression.candidates import left_out, select
from tlmtool.compression.compress import compress
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.models.attending import attention_sites
from tlmtool.models.factorized import Factorized, shape
from tlmtool.models.roles import KEPT, roles_of
from tlmtool.models.surgery import factorize, merge, modes, plan_of, sites

SELF = "encoder.layer.#.attention"
MIXED = {f"layers.#.self_attn.{n[0]}_proj": n for n in ("query", "key", "value")}
MIXED |= {"layers.#.self_attn.o_proj": "output", "embed_tokens": "embedding"}
GATED = {"layers.#.mlp.gate_proj": "gate", "layers.#.mlp.up_proj": "up"}
GATED |= {"layers.#.mlp.down_proj": "down"}
DENSES = {"encoder.layer.#.intermediate.dense": "up", "encoder.layer.#.output.dense": "down"}
DENSES |= {"embeddings.word_embeddings": "embedding", f"{SELF}.output.dense": "output"}
SHARED = "layers.#.mlp.shared_expert"
KINDS = {  # type without a row: {pattern of sites: role}
    "xlm-roberta": DENSES | {f"{SELF}.self.{n}": n for n in ("query", "key", "value")},
    "deberta-v2": DENSES | {f"{SELF}.self.{n}_proj": n for n in ("query", "key", "value")},
    "modernbert": {
        "embeddings.tok_embeddings": "embedding",
        "layers.#.attn.Wqkv": "qkv",
        "layers.#.attn.Wo": "output",
        "layers.#.mlp.Wi": "gate_up",
        "layers.#.mlp.Wo": "down",
    },
    "phi3": {
        "embed_tokens": "embedding",
        "layers.#.self_attn.qkv_proj": "qkv",
        "layers.#.self_attn.o_proj": "output",
        "layers.#.mlp.gate_up_proj": "gate_up",
        "layers.#.mlp.down_proj": "down",
    },
    "gpt_neox": {
        "embed_in": "embedding",
        "layers.#.attention.query_key_value": "qkv",
        "layers.#.attention.dense": "output",
        "layers.#.mlp.dense_h_to_4h": "up",
        "layers.#.mlp.dense_4h_to_h": "down",
    },
    "gemma2": MIXED | GATED,
    "cohere": MIXED | GATED,  # attention and feed-forward are added to one stream
    "mixtral": MIXED,  # its experts are no linears
    "qwen2_moe": MIXED
    | {f"{SHARED}.{n}_proj": n for n in ("gate", "up", "down")}
    | {f"{SHARED}_gate": "other"},
    "mobilebert": DENSES
    | {f"{SELF}.self.{n}": n for n in ("query", "key", "value")}
    | {
        f"encoder.layer.#.ffn.#.{n}": DENSES[f"encoder.layer.#.{n}"]
        for n in ("intermediate.dense", "output.dense")
    }
    | {f"encoder.layer.#.bottleneck.{n}.dense": "other" for n in ("input", "attention")}
    | {"encoder.layer.#.output.bottleneck.dense": "other"}
    | {"embeddings.embedding_transformation": "other"},
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
EXPERTS |= {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}


def tiny(kind: str, **more) -> PreTrainedModel:
    """A model of a type without a row, of 2 layers of width 32, with its language-model head."""
    plain = AutoConfig.for_model(kind).to_dict()
    small = {k: v for k, v in (SIZES | TOKENS | EXPERTS).items() if plain.get(k)}
    masked = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**small, "pad_token_id": 1, **more})
    return auto.from_config(config).eval()


def patterns(model: nn.Module) -> dict[str, str]:
    return {re.sub(r"(?<=\.)\d+(?=\.)", "#", site): role for site, role in sites(model).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_without_a_row_has_roles(kind):
    """On numbers and on meta; dense, factorized and merged."""
    model = tiny(kind)
    assert patterns(model) == KINDS[kind]
    found = sites(model)
    with torch.device("meta"):
        assert sites(type(model)(copy.deepcopy(model.config))) == found
    factorize(model, {site: SVD(1) for site in found})
    vars(model.base_model).pop(KEPT)
    assert sites(model) == found and {*plan_of(model)} == {*found}
    merge(model)
    vars(model.base_model).pop(KEPT)
    assert sites(model) == found and not plan_of(model)


def test_a_linear_that_reads_positions_and_text_has_a_role():
    """deberta-v3 puts its relative positions through the query and the key."""
    shared = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    assert patterns(tiny("deberta-v2", **shared)) == KINDS["deberta-v2"]


class Plain(nn.Linear):
    """A linear under another name."""

    def forward(self, x):
        return x @ self.weight.T + self.bias


class Scaled(nn.Linear):
    """More than a linear."""

    def forward(self, x):
        return 2 * super().forward(x)


class Layer(nn.Module):
    """A gated feed-forward block with names that say nothing, or lie."""

    def __init__(self, kind: type):
        super().__init__()
        self.down, self.up, self.query = kind(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.key, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.router = nn.Linear(8, 4)

    def forward(self, x):
        y = self.norm(x)
        weights = self.router(y).softmax(-1)
        inner = (
            self.down(y) * torch.tanh(self.up(y)) + nn.functional.linear(y, self.key.weight).sum()
        )
        return x + self.query(inner) * weights.sum(-1, keepdim=True)


class Toy(PreTrainedModel):
    config_class = LlamaConfig

    def __init__(self, config, kind: type = nn.Linear):
        super().__init__(config)
        self.table = nn.Embedding(V, 8)
        self.layers = nn.ModuleList(Layer(kind) for _ in range(2))

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids):
        x = self.table(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("kind", [nn.Linear, Plain])
def test_names_that_lie_do_not_matter(kind):
    found = {"table": "embedding", "layers.#.down": "up", "layers.#.up": "gate"}
    found |= {"layers.#.query": "down", "layers.#.router": "other"}
    assert patterns(Toy(LlamaConfig(), kind)) == found


def test_linears_that_can_be_no_sites_are_named_with_the_reason():
    model = Toy(LlamaConfig(), Scaled)
    kept = roles_of(model).kept_dense
    assert kept["layers.0.down"] == "a Scaled computes more than a linear layer"
    assert kept["layers.1.key"] == "the model reads its weight itself and does not call it"
    assert {*kept} == {f"layers.{k}.{name}" for k in (0, 1) for name in ("down", "key")}
    assert not {*kept} & {*sites(model)}
    (told,) = left_out(model, ("*.key",))
    assert told.startswith("layers.0.key, layers.1.key: left dense, because the model reads")
    assert len(left_out(model, ("linears",))) == 2
    assert left_out(model, ("attention", "ffn")) == ["Toy has no sites of attention"]


def test_a_model_that_cannot_run_a_short_text_has_its_roles_by_name():
    model = pico("llama")
    known = sites(model)
    model.layers[0].forward = None
    vars(model).pop(KEPT)
    assert sites(model) == known


def test_shared_layers_are_one_site_and_are_replaced_everywhere():
    model = tiny("albert", num_hidden_layers=3)
    found = {site: role for site, role in sites(model).items() if role != "embedding"}
    assert len([role for role in found.values() if role == "query"]) == 1
    compress(model, rank=2, method="svd", sites="linears")
    assert {*plan_of(model)} == {*found}
    twice = nn.ModuleList([model.base_model.encoder.albert_layer_groups[0]] * 2)
    model.base_model.encoder.albert_layer_groups = twice  # one layer at two places
    site = next(iter(found))
    merge(model)
    assert sites(model).keys() - {"embeddings.word_embeddings"} == {*found}
    factorize(model, {site: SVD(2) for site in found})
    modules = dict(model.base_model.named_modules(remove_duplicate=False))
    held = [m for path, m in modules.items() if path.endswith(site.rpartition(".")[2])]
    assert len(held) >= 1 and all(isinstance(m, Factorized) for m in held)


def test_modes_of_a_fused_projection_under_grouped_queries():
    """4 heads of queries, 2 of keys and 2 of values, each 8 wide; not 12 heads."""
    model = tiny("phi3")
    site = "layers.0.self_attn.qkv_proj"
    assert shape(model.base_model.get_submodule(site)) == (64, 32)
    assert modes(model, site, "qkv") == (8, 8)
    assert len(compress(model, rank=2, method="btd", sites=site).plan) == 1


def test_groups_of_roles_that_sites_names():
    model = tiny("qwen2_moe")
    roles = {name: {*select(model, [name]).values()} for name in ("attention", "ffn", "all")}
    assert roles["ffn"] == {"gate", "up", "down"} and "other" not in set().union(*roles.values())
    linears = select(model, ["linears"])
    assert linears.items() == {s: r for s, r in sites(model).items() if r != "embedding"}.items()
    assert {*select(model, ["*shared_expert_gate"]).values()} == {"other"}
    dense = compress(model, rank=2, method="svd", sites="linears").left_dense  # (1, 32)
    assert {*dense} == {f"layers.{k}.mlp.shared_expert_gate" for k in (0, 1)}
    bare = tiny("mixtral")
    assert {*select(bare, ["attention", "ffn"])} == {*select(bare, ["attention"])}
    with pytest.raises(Usage, match=r"no sites of ffn: its experts, such as layers.0.mlp.experts"):
        select(bare, ["ffn"])


def test_a_kernel_for_a_type_without_a_row_is_refused_with_what_is_missing():
    with pytest.raises(ValueError, match=r"a gemma2 keeps softmax attention: .*positions and bias"):
        attention_sites(tiny("gemma2"))
