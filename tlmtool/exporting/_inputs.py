"""Names, shapes and examples of what an exported graph reads and gives.

A graph reads `input_ids` (B, N), `attention_mask` (B, P + N) and, where the model has a table of
several, `token_type_ids` (B, N). With a cache it also reads the keys and values of P earlier tokens
of each layer, (B, H, P, D), and gives those of all P + N. The names are those that optimum uses.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tlmtool.failure import Usage
from tlmtool.measuring.counting import example_of
from tlmtool.measuring.inputs import takes
from tlmtool.measuring.outputs import position_limit
from tlmtool.models.kernels import converted
from tlmtool.models.shadow import shadow

LENGTHS = (48, 7)  # tokens of the texts that are compared, where the model has as many positions
PAST = 5  # tokens in the cache of the example that is traced
Shape = tuple[int, int]  # (H, D) of a layer of the cache


@dataclass(frozen=True)
class Signature:
    """What a graph reads and gives. `cache`: (H, D) of each layer; empty without a cache."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cache: tuple[Shape, ...]

    @property
    def past(self) -> list[str]:
        """Names of the inputs that hold the cache."""
        return _names("past_key_values", len(self.cache))

    @property
    def present(self) -> list[str]:
        """Names of the outputs that hold the cache."""
        return _names("present", len(self.cache))


def _names(start: str, layers: int) -> list[str]:
    return [f"{start}.{layer}.{each}" for layer in range(layers) for each in ("key", "value")]


@torch.no_grad()
def signature(model: Any) -> Signature:
    """What the graph of a model reads and gives; zeros stand for weights on the meta device.

    Raises Usage for a model that one graph cannot hold.
    """
    config, name = model.config, model.name_or_path or type(model).__name__
    if config.is_encoder_decoder:
        raise Usage(
            f"{name} has an encoder and a decoder, which take two graphs, and tlm writes one: make "
            "it plain with tlm merge, and export the result with optimum"
        )
    model = shadow(model, "cpu") if model.device.type == "meta" else model
    tables = getattr(config.get_text_config(), "type_vocab_size", None) or 0
    types = ["token_type_ids"] if takes(model, "token_type_ids") and tables > 1 else []
    given = example_of(model, min(4, position_limit(model) or 4), 1)
    cached = model.can_generate() and not any(converted(model))
    found = model(**given | ({"use_cache": True} if cached else {}))
    held = getattr(found, "past_key_values", None) if cached else None
    shapes = tuple((k.shape[1], k.shape[3]) for k in _keys(held, name)) if held else ()
    outputs = [key for key, value in found.items() if isinstance(value, Tensor)]
    outputs = [key for key in outputs if key != "pooler_output"] or outputs
    made = Signature(("input_ids", "attention_mask", *types), tuple(outputs), shapes)
    inputs, given_back = (*made.inputs, *made.past), (*made.outputs, *made.present)
    return Signature(inputs, given_back, shapes)


def _keys(cache: Any, name: str) -> list[Tensor]:
    """The keys (B, H, P, D) of each layer of a cache."""
    keys = [getattr(layer, "keys", None) for layer in cache.layers]
    if not all(isinstance(each, Tensor) and each.ndim == 4 for each in keys):
        raise Usage(
            f"{name} keeps more than keys and values of earlier tokens, which a graph cannot hold"
        )
    return keys


def example(
    model: Any, made: Signature, batch: int, length: int, past: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """Random inputs by name, float32 and int64. The last text is padded by a third: at its end, or
    at its start in a model with a cache."""
    ids = example_of(model, length, batch, seed)["input_ids"].cpu()
    mask = torch.ones(batch, past + length, dtype=torch.long)
    padded = (past + length) // 3 if batch > 1 else 0
    if padded:
        mask[-1, slice(None, padded) if made.cache else slice(-padded, None)] = 0
    found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    draw = torch.Generator().manual_seed(seed)
    for layer, (heads, width) in enumerate(made.cache):
        for name in made.past[2 * layer : 2 * layer + 2]:
            found[name] = torch.randn(batch, heads, past, width, generator=draw)
    return {name: found[name] for name in made.inputs}


def examples(model: Any, made: Signature) -> list[dict[str, Tensor]]:
    """Inputs of several sizes that a graph is held to; with a cache, an empty and a filled one."""
    limit = position_limit(model) or LENGTHS[0]
    long, short = (max(1, min(each, limit // 2)) for each in LENGTHS)
    found = [example(model, made, 1, 1), example(model, made, 3, short, seed=1)]
    if made.cache:
        found.append(example(model, made, 2, 1, past=long, seed=3))
        found.append(example(model, made, 1, short, past=short, seed=4))
    return [*found, example(model, made, 2, long, seed=2)]


def axes(made: Signature) -> list[dict[int, str]]:
    """The names of the sizes that are open, of each input."""
    held = {0: "batch", 2: "past"}
    open_ = {"input_ids": {0: "batch", 1: "length"}, "token_type_ids": {0: "batch", 1: "length"}}
    whole = {0: "batch", 1: "past_and_length" if made.cache else "length"}
    return [open_.get(name, whole if "." not in name else held) for name in made.inputs]
