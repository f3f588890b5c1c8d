"""Tiny models of every text type that transformers has, made from the default config of a type."""

import re
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

V, N, E, HEADS, WIDTH = 120, 16, 64, 4, 16  # vocabulary, tokens of a text, width, heads, head width
# Names of sizes in configs, and the most that each may be. The first pattern that fits a name
# counts. A size with another name stays as it is, so a new type may be slow until it is added here.
MOST = [
    (r"(\w+_)?vocab_size\w*|\w+_group_vocab|num_embeddings", V),
    (r"(kv|q|o)_lora_rank", 16),
    (r"qk_head_dim", 2 * WIDTH),
    (r"rotary_dim", 8),
    (r"\w*head_dim|d_head|d_kv|attention_head_size|\w*headdim|mamba_d_head", WIDTH),
    (r"(\w+_)?num_key_value_heads|linear_num_key_heads|kv_n_heads|num_query_groups", 2),
    (r"\w*num_kv_heads", 2),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"n_heads?|\w*num_heads|\w*attention_heads|\w*num_value_heads|index_n_heads", HEADS),
    (r"mamba_d_ssm", 128),
    (r"(mamba_)?n_?groups|n_group|topk_group|num_expert_group", 1),
    (r"(num_)?(hidden_|encoder_|decoder_)?layers|n_layers?|depth|\w+_(encoder|decoder)_layers", 2),
    (r"\w*intermediate_size\w*|ffn_\w*hidden_size|\w*ffn_dim|dff|d_ff|dim_ff|d_inner|n_inner", 96),
    (r"mlp_dim|hidden_dim|feed_forward_size", 96),
    (r"\w*hidden_size\w*|d_model|dim|n_embd|emb_dim|embedding_dim|\w*embed_dim", E),
    (
        r"\w*embedding_size|adapter_\w+|word_embed_proj_dim|\w*bottleneck_size|d_latents|lru_width",
        E,
    ),
    (r"n_routed_experts|num_(local_)?experts|moe_num_experts|zero_expert_num", 4),
    (r"num_experts_per_\w+|\w*top_?k|moe_k|num_latents", 2),
    (r"max_\w*positions?\w*|n_positions|n_ctx|max_seq_len|\w*context_length|model_max_length", 64),
    (r"attention_window\w*|sliding_window\w*|local_attention\w*|\w*window_size", 8),
    (r"\w*state_size|mamba_d_state|(mamba_)?chunk_size|num_filters", 8),
    (r"image_size|crop_size|\w+_out_channel|nemo_conv_channels", 32),
    (r"patch_size", 16),
    (r"\w*token_(id|index)", V - 1),
]
UNSET = {"head_dim": WIDTH, "num_key_value_heads": HEADS}  # instead of None
LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "decoder_layers")
OWN = ("transformers_version", "architectures", "model_type", "id2label", "label2id", "num_labels")
_MOE = {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_INDEX = {"indexer_n_heads": HEADS, "indexer_kv_heads": 1, "indexer_head_dim": WIDTH}
_INDEX |= {"indexer_budget": 4, "indexer_compress_ratio": 2}
# {type: keys that its validation, or its forward pass, asks for}
MORE: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": _MOE,
    "dots3_note": {"text_config": {"head_dim": 2 * WIDTH}},
    "dots3_note_text": {"head_dim": 2 * WIDTH},
    "esm": {"vocab_size": V, "pad_token_id": 1, "mask_token_id": 4},
    "esmc": {"vocab_size": V},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": 96},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "qwen4_exp": {"text_config": _INDEX},
    "qwen4_exp_text": _INDEX,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": [4, 4], "axial_pos_embds_dim": [32, 32]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        **{"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
        **{"attention_hidden_size": 128, "attention_head_dim": 32},
    },
    "zamba2": {
        **{"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
        **{"attention_hidden_size": 128, "attention_head_dim": 32, "hybrid_layer_ids": [1, 3]},
    },
}
MAPPINGS = {
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForTextEncoding": modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
}


def heads_of(kind: str) -> list[str]:
    """The Auto classes for text that know a type."""
    return [head for head, kinds in MAPPINGS.items() if kind in kinds]


def small(kept: dict[str, Any]) -> dict[str, Any]:
    """The dict of a config with small sizes, of the configs inside it too. Of its layers, one of
    each kind stays, and two at least."""
    found = {key: _small(key, value) for key, value in kept.items()}
    heads = kept.get("num_attention_heads")
    if kept.get("kv_lora_rank") or (heads and kept.get("num_key_value_heads") == heads):
        found["num_key_value_heads"] = found["num_attention_heads"]
    count = next((kept[k] for k in LAYERS if isinstance(kept.get(k), int)), 0)
    each = [k for k, v in kept.items() if isinstance(v, list) and len(v) == count > 1]
    if not each:
        return found
    rows = [str([kept[k][i] for k in each]) for i in range(count)]
    stay = [i for i, row in enumerate(rows) if row not in rows[:i]]
    stay += [stay[-1] + 1] if len(stay) == 1 else []
    found |= {k: [kept[k][i] for i in stay] for k in each}
    found |= {k: len(stay) for k in LAYERS if kept.get(k) == count}
    if per_layer := kept.get("per_layer_config"):
        of = {int(i): small(more) for i, more in per_layer.items()}
        found["per_layer_config"] = {k: of[i] for k, i in enumerate(stay) if i in of}
    return found


def _small(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return small(value)
    value = UNSET.get(key) if value is None else value
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    most = next((size for pattern, size in MOST if re.fullmatch(pattern, key)), value)
    return min(value, most)


def over(kept: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The second dict over the first, at every depth."""
    both = {k: over(kept[k], more[k]) for k in more if isinstance(kept.get(k), dict)}
    return kept | more | both


def config_of(kind: str, head: str) -> Any:
    """A small config of a type, for an Auto class."""
    cls = CONFIG_MAPPING[kind]
    kept = {key: v for key, v in small(cls().to_dict()).items() if key not in OWN}
    said = {"use_cache": False, "is_decoder": head == "AutoModelForCausalLM"}
    if head == "AutoModelForTextEncoding":
        said["is_encoder_decoder"] = False
    return cls(**over(kept | {k: v for k, v in said.items() if k in kept}, MORE.get(kind, {})))


def tiny(kind: str, head: str) -> PreTrainedModel:
    """A small model of a type as an Auto class makes it, random to its last bias."""
    torch.manual_seed(0)
    model = getattr(transformers, head).from_config(config_of(kind, head)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def output(model: PreTrainedModel) -> torch.Tensor:
    """The first output for two texts: logits or hidden states."""
    ids = torch.randint(5, V - 30, (2, N), generator=torch.Generator().manual_seed(1))
    more = {"decoder_input_ids": ids.flip(1)} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **more)[0]
