"""The table of families: what cannot be read off a model.

The roles of linears are read off the model itself, so a family without a row works too. A row says
where a kernel can replace softmax attention. Names of families appear in no other file.
"""

from dataclasses import dataclass, field, replace

UNKNOWN = (
    "a kernel must know where positions and biases enter the attention, and tlm does not know that "
    "of the type"
)


@dataclass(frozen=True)
class Architecture:
    """What cannot be read off the models of a family. Paths match on whole components.

    `attention`: the ending of a self-attention module that can take a kernel; `projections`: {role:
    path of its linear below the module, or below the module that holds that}; `refuses`: why none
    can take one. `masked`: endings of the names of classes with a head that predicts masked tokens.
    """

    attention: str = ""
    projections: dict[str, str] = field(default_factory=dict)
    refuses: str = ""
    masked: tuple[str, ...] = ("ForMaskedLM",)

    def attends(self, path: str) -> bool:
        """Whether the module at `path` (below the base model) is self-attention."""
        return not self.refuses and f".{path}".endswith(f".{self.attention}")


def _row(attention: str, **projections: str) -> Architecture:
    return Architecture(attention, projections)


_BERT_LIKE = _row("attention.self", query="query", key="key", value="value", output="output.dense")
_LLAMA_LIKE = _row("self_attn", query="q_proj", key="k_proj", value="v_proj", output="o_proj")
_BART_LIKE = _row("self_attn", query="q_proj", key="k_proj", value="v_proj", output="out_proj")

ARCHITECTURES: dict[str, Architecture] = {
    "bert": replace(_BERT_LIKE, masked=("ForMaskedLM", "ForPreTraining")),
    "roberta": _BERT_LIKE,
    "electra": _BERT_LIKE,
    "distilbert": _row("attention", query="q_lin", key="k_lin", value="v_lin", output="out_lin"),
    "gpt2": _row("attn", qkv="c_attn", output="c_proj"),
    "opt": _BART_LIKE,
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "t5": Architecture(
        refuses="it adds a learned position bias to the scores, and a kernel has no scores"
    ),
    "bart": _BART_LIKE,
    "marian": _BART_LIKE,
}
LLAMA_CPP = {"llama": "llama"}  # {model type: what llama.cpp calls it}, of those that tlm writes
BYTE_LEVEL = "gpt2"  # what llama.cpp calls byte-level BPE
SPLITS = ("gpt-4o", "llama-bpe", "qwen2", "tekken")  # ways to split text that it has names for
ALIASES = {  # short names of checkpoints on the Hub
    "bert-base": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "distilbert-base": "distilbert-base-uncased",
    "gpt2-small": "gpt2",
    "t5-small": "google-t5/t5-small",
}
PREFIX = "tlm-"  # of our model types; checkpoints on disk have it in their config.json
NAME = "Tlm"  # the start of the names of our classes; checkpoints on disk have it too


def base_type(model_type: str) -> str:
    """`tlm-<type>` and `<type>` -> `<type>`."""
    return model_type.removeprefix(PREFIX)


def architecture(model_type: str) -> Architecture:
    """The row of a model type. A type without one has the defaults, and keeps its attention."""
    return ARCHITECTURES.get(base_type(model_type), Architecture(refuses=UNKNOWN))
