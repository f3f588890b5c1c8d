"""The table of families: which module of a model plays which role.

A new family is one row here. Names of families appear in no other file of the package.
"""

from dataclasses import dataclass, replace

ATTENTION = ("query", "key", "value", "qkv", "output")
FFN = ("gate", "up", "down")
GROUPS = {"attention": ATTENTION, "ffn": FFN, "embedding": ("embedding",)}
GROUPS["all"] = (*ATTENTION, *FFN, "embedding")
WRITES_RESIDUAL = ("output", "down")  # roles whose output is added to the residual stream


@dataclass(frozen=True)
class Architecture:
    """A family of models. Paths are relative to the base model and match on whole components.

    `roles`: {role: endings of the paths of its modules}; the longest ending that fits wins.
    `embedding`: whole paths of the table of tokens. `optional`: roles that a model may lack.
    `attention`: the ending of a self-attention module that can take a kernel; `refuses`: why none
    can. `masked`: endings of the names of classes with a head that predicts masked tokens.
    """

    roles: dict[str, tuple[str, ...]]
    embedding: tuple[str, ...]
    optional: tuple[str, ...] = ()
    attention: str = "self_attn"
    refuses: str = ""
    masked: tuple[str, ...] = ("ForMaskedLM",)

    def attends(self, path: str) -> bool:
        """Whether the module at `path` (below the base model) is self-attention."""
        return not self.refuses and f".{path}".endswith(f".{self.attention}")

    def role_of(self, path: str) -> str | None:
        """The role of the module at `path` (below the base model), or None."""
        if path in self.embedding:
            return "embedding"
        endings = [
            (len(ending), role)
            for role, several in self.roles.items()
            for ending in several
            if f".{path}".endswith(f".{ending}")
        ]
        return max(endings, default=(0, None))[1]


def _roles(**endings: str) -> dict[str, tuple[str, ...]]:
    return {role: tuple(several.split()) for role, several in endings.items()}


_BERT = _roles(
    query="attention.self.query crossattention.self.query",
    key="attention.self.key crossattention.self.key",
    value="attention.self.value crossattention.self.value",
    output="attention.output.dense crossattention.output.dense",
    up="intermediate.dense",
    down="output.dense",
)
_BERT_LIKE = Architecture(_BERT, ("embeddings.word_embeddings",), attention="attention.self")
_LLAMA_LIKE = Architecture(
    _roles(
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        gate="mlp.gate_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
    ),
    ("embed_tokens",),
)
_BART_LIKE = Architecture(
    _roles(
        query="self_attn.q_proj encoder_attn.q_proj",
        key="self_attn.k_proj encoder_attn.k_proj",
        value="self_attn.v_proj encoder_attn.v_proj",
        output="self_attn.out_proj encoder_attn.out_proj",
        up="fc1",
        down="fc2",
    ),
    ("shared", "decoder.embed_tokens"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": replace(_BERT_LIKE, masked=("ForMaskedLM", "ForPreTraining")),
    "roberta": _BERT_LIKE,
    "electra": _BERT_LIKE,
    "distilbert": Architecture(
        _roles(
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            output="attention.out_lin",
            up="ffn.lin1",
            down="ffn.lin2",
        ),
        ("embeddings.word_embeddings",),
        attention="attention",
    ),
    "gpt2": Architecture(
        _roles(qkv="attn.c_attn", output="attn.c_proj", up="mlp.c_fc", down="mlp.c_proj"),
        ("wte",),
        attention="attn",
    ),
    "opt": Architecture(_BART_LIKE.roles, ("decoder.embed_tokens",)),
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "t5": Architecture(
        _roles(
            query="SelfAttention.q EncDecAttention.q",
            key="SelfAttention.k EncDecAttention.k",
            value="SelfAttention.v EncDecAttention.v",
            output="SelfAttention.o EncDecAttention.o",
            gate="DenseReluDense.wi_0",
            up="DenseReluDense.wi DenseReluDense.wi_1",
            down="DenseReluDense.wo",
        ),
        ("shared",),
        optional=("gate",),
        refuses="it adds a learned position bias to the scores, and a kernel has no scores",
    ),
    "bart": _BART_LIKE,
    "marian": _BART_LIKE,
}
ALIASES = {  # short names of checkpoints on the Hub
    "bert-base": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "distilbert-base": "distilbert-base-uncased",
    "gpt2-small": "gpt2",
    "t5-small": "google-t5/t5-small",
}
PREFIX = "tlm-"  # of our model types; checkpoints on disk have it in their config.json


def base_type(model_type: str) -> str:
    """`tlm-<type>` and `<type>` -> `<type>`."""
    return model_type.removeprefix(PREFIX)


def architecture(model_type: str) -> Architecture:
    """The row of a model type. Raises ValueError, with the known types, for another."""
    try:
        return ARCHITECTURES[base_type(model_type)]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ValueError(f"model type {model_type!r} is not supported; known: {known}") from None
