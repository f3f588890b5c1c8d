"""A number in our config.json that makes the classes of transformers refuse it.

transformers' own `BertModel.from_pretrained` only warns that the type is not its own, and draws the
weights that it misses at random. `auto_map` does not stop it, since only Auto classes read that. So
one number is written as "0.02 (what to do)". A plain config refuses that and shows it; ours reads
the number in front.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

GUARD = "this is a tlm checkpoint: import tlmtool, then load it with an Auto class of transformers"
# Numbers that config classes declare, the first one that a config has. Where it has none, a config
# inside it may. A type without any is loaded by its own class as if nothing were wrong.
NUMBERS = (
    *("initializer_range", "init_std", "initializer_factor"),
    *("rms_norm_eps", "layer_norm_epsilon", "norm_eps"),
)


def spelled(config: PreTrainedConfig, kept: dict[str, Any]) -> dict[str, Any]:
    """The dict of a config, `kept`, with the number spelled with the words. It is changed."""
    *above, key = number_in(config) or ("",)
    inner = kept
    for name in above:
        inner = inner[name]
    if key in inner:
        inner[key] = f"{inner[key]} ({GUARD})"
    return kept


def read(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `spelled`: the same dict with a number there."""
    found = {}
    for key, value in kept.items():
        if isinstance(value, str) and value.endswith(f" ({GUARD})"):
            value = float(value.split()[0])
        found[key] = read(value) if isinstance(value, dict) else value
    return found


def number_in(config: PreTrainedConfig) -> tuple[str, ...]:
    """The keys that lead to the number in a config; empty where there is none."""
    for key in NUMBERS:
        if hasattr(type(config), key) and isinstance(getattr(config, key), float | int):
            return (key,)
    for name, part in vars(config).items():
        if isinstance(part, PreTrainedConfig) and (below := number_in(part)):
            return (name, *below)
    return ()
