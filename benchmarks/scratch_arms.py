"""The arms that scratch.py compares: which attention, in which layers, of which family."""

from typing import Any

MIXED = {"attention": "dimensionwise", "mixer": "5"}
ALONE = MIXED | {"alone": True}  # the control: W stays 0, so only the convolution mixes
CONV = {"attention": "multilinear", "w_o": "conv"}
ARMS: dict[
    str, dict[str, dict[str, Any]]
] = {  # flags of an arm; `heads`, `half` and `alone` are no flags
    "mlm": {
        "softmax, 8 heads": {},
        "softmax, 1 head": {"heads": 1},
        "dimensionwise": {"attention": "dimensionwise"},
        "dimensionwise, 8 kernels": {"attention": "dimensionwise", "kernels": "8"},
        "dimensionwise + mixer": MIXED,
        "dimensionwise + mixer, 8 kernels": MIXED | {"kernels": "8"},
        "mixer alone": ALONE,
        "multilinear conv": CONV,
        "half dimensionwise + mixer": MIXED | {"half": True},
        "half multilinear conv": CONV | {"half": True},
    },
    "clm": {
        "softmax, 8 heads": {},
        "multilinear decay": {"attention": "multilinear", "w_o": "decay"},
        "multilinear conv": CONV,
        "dimensionwise + mixer": MIXED,
        "mixer alone": ALONE,
        "half dimensionwise + mixer": MIXED | {"half": True},
        "half multilinear conv": CONV | {"half": True},
    },
}
FAMILY = {"mlm": "bert", "clm": "gpt2"}
MATTER = [  # these run with every seed, the others with one
    "softmax, 8 heads",
    "dimensionwise + mixer",
    "mixer alone",
    "half dimensionwise + mixer",
    "multilinear conv",
    "half multilinear conv",
    "multilinear decay",
]
KEYS = {  # of config.json: the five sizes, as each family names them
    "bert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
             "intermediate_size"),
    "gpt2": ("n_embd", "n_layer", "n_head", "n_positions", "n_inner"),
}  # fmt: skip
