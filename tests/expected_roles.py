"""The roles of the pico models, written down by hand: what is read off a model must agree."""

from torch import nn
from transformers.pytorch_utils import Conv1D

# {role: endings of the paths of its modules} of each kind of family, written down by hand.
BERT = {
    "query": "attention.self.query crossattention.self.query",
    "key": "attention.self.key crossattention.self.key",
    "value": "attention.self.value crossattention.self.value",
    "output": "attention.output.dense crossattention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "embedding": "embeddings.word_embeddings",
}
LLAMA = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "embedding": "embed_tokens",
}
BART = {
    "query": "self_attn.q_proj encoder_attn.q_proj",
    "key": "self_attn.k_proj encoder_attn.k_proj",
    "value": "self_attn.v_proj encoder_attn.v_proj",
    "output": "self_attn.out_proj encoder_attn.out_proj",
    "up": "fc1",
    "down": "fc2",
    "embedding": "shared",
}
T5 = {
    "query": "SelfAttention.q EncDecAttention.q",
    "key": "SelfAttention.k EncDecAttention.k",
    "value": "SelfAttention.v EncDecAttention.v",
    "output": "SelfAttention.o EncDecAttention.o",
    "up": "DenseReluDense.wi",
    "down": "DenseReluDense.wo",
    "embedding": "shared",
}
ENDINGS = {
    "distilbert": {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "output": "attention.out_lin",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "embedding": "embeddings.word_embeddings",
    },
    "gpt2": {
        "qkv": "attn.c_attn",
        "output": "attn.c_proj",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
        "embedding": "wte",
    },
    "t5": T5,
    "t5-gated": {**T5, "gate": "DenseReluDense.wi_0", "up": "DenseReluDense.wi_1"},
    "opt": {**BART, "embedding": "decoder.embed_tokens"},
    **dict.fromkeys(("bert", "roberta", "electra"), BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), LLAMA),
    **dict.fromkeys(("bart", "marian"), BART),
}
KINDS = (nn.Linear, nn.Embedding, Conv1D)


def role_of(path: str, family: str) -> str | None:
    """The role of the longest ending that fits a path on whole components."""
    fits = [
        (len(ending), role)
        for role, several in ENDINGS[family].items()
        for ending in several.split()
        if f".{path}".endswith(f".{ending}")
    ]
    return max(fits, default=(0, None))[1]


def expected(model: nn.Module, family: str) -> dict[str, str]:
    """{site: role} by the table above."""
    modules = model.base_model.named_modules()
    paths = [path for path, module in modules if isinstance(module, KINDS)]
    return {path: role for path in paths if (role := role_of(path, family))}
