"""How hidden states become one vector of a text: as a folder's `modules.json` says, or by the mean.

The parts of a sentence-transformers model that follow its transformer are read without that
package: pooling, dense layers with an activation, layer norms, and normalizing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tlmtool.failure import NotLoadable
from tlmtool.measuring.inputs import folder_of
from tlmtool.measuring.sentence_layers import LAYERS, Layer, read_json, unit
from tlmtool.models.guarding import modules

PLAIN = "by the mean"
MODES = {  # {key of older folders: mode}, in the order in which several stand side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass
class Pooling:
    """Hidden states (B, N, E) become vectors (B, F).

    `modes`: kinds of pooling, side by side. `layers`: what follows. `prompt`: what is put before
    each text; it is not pooled if it is `apart`. `longest`: the most tokens that are read.
    `encoder`: whether the encoder of an encoder-decoder gives the states. `words`: all of it, in
    words.
    """

    modes: tuple[str, ...] = ("mean",)
    layers: list[Layer] = field(default_factory=list)
    prompt: str = ""
    apart: bool = False
    lower: bool = False
    longest: int | None = None
    encoder: bool = False
    words: str = PLAIN

    def texts(self, sentences: list[str]) -> list[str]:
        """The sentences as the model reads them."""
        whole = [self.prompt + sentence for sentence in sentences]
        return [each.lower() for each in whole] if self.lower else whole

    def skipped(self, tokenizer: Any) -> int:
        """How many tokens of the prompt, at the start of a text, are not pooled."""
        if not (self.apart and self.prompt):
            return 0
        ids = tokenizer(*self.texts([""]))["input_ids"]
        return len(ids) - (ids[-1] in tokenizer.all_special_ids)

    def __call__(self, hidden: Tensor, mask: Tensor, skipped: int = 0) -> Tensor:
        """`mask`: (B, N), 1 where there is a token."""
        mask = mask.to(hidden.device)
        kept = mask * (torch.arange(mask.shape[1], device=mask.device) >= skipped)
        found = torch.cat([_pooled(mode, hidden, kept) for mode in self.modes], -1)
        for layer in self.layers:
            found = layer(found)
        return found


def _pooled(mode: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """One vector of each text (B, E)."""
    wide, rows = mask[..., None], torch.arange(len(mask), device=mask.device)
    if mode == "cls":
        return hidden[rows, mask.argmax(1)]
    if mode == "lasttoken":
        places = torch.arange(mask.shape[1], device=mask.device)
        return hidden[rows, (mask * places).argmax(1)]
    if mode == "max":
        return hidden.masked_fill(wide == 0, -torch.inf).amax(1)
    if mode == "weightedmean":
        wide = wide * torch.arange(1, mask.shape[1] + 1, device=mask.device)[:, None]
    count = wide.sum(1).clamp(min=1)
    return (hidden * wide).sum(1) / (count**0.5 if mode == "mean_sqrt_len_tokens" else count)


def pooling_of(model: nn.Module) -> Pooling:
    """The pooling of the folder that a model was loaded from. Raises NotLoadable for a part that is
    not known, and names it."""
    folder = folder_of(model)
    parts = [*_parts(folder)] if folder else []
    if not parts:
        return Pooling()
    found, told, width = Pooling(modes=()), [], 0
    for kind, place in parts:
        if kind == "Transformer":
            kept = read_json(folder / place / "sentence_bert_config.json")
            longest, found.lower = kept.get("max_seq_length"), bool(kept.get("do_lower_case"))
            found.longest = longest if isinstance(longest, int) and longest > 0 else None
        elif kind == "Pooling" and not found.modes:
            found.modes, found.apart = _modes(folder / place)
            width = len(found.modes) * model.config.get_text_config().hidden_size
            told.append("by " + " and ".join(found.modes))
        elif kind in LAYERS and found.modes:
            layer, said, width = LAYERS[kind](folder / place, width)
            found.layers.append(layer)
            told.append(said)
        elif kind != "Dropout":
            raise NotLoadable(
                f"{folder / 'modules.json'} names a part {kind} ({place or 'its root'}) that tlm "
                f"cannot follow there: it knows Transformer, Pooling, {', '.join(LAYERS)}"
            )
    if not found.modes:
        raise NotLoadable(f"{folder / 'modules.json'} names no Pooling, which similarity needs")
    if found.layers and found.layers[-1] is unit:
        found.layers.pop()  # the cosine normalizes
    found.prompt = _prompt(folder)
    found.encoder = _encodes(model)
    told += [f"after the prompt {found.prompt!r}"] if found.prompt else []
    told += [f"of at most {found.longest} tokens"] if found.longest else []
    found.words = ", ".join(told) + ", as modules.json says"
    return found


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, path) of each part of a sentence-transformers model. The kind of a part of another
    package is its full name, which is not known."""
    if not (folder / "modules.json").is_file():
        return
    modules(folder)  # raises: paths that lead out of the folder
    for each in read_json(folder / "modules.json", list):
        name, path = (str(each.get(key) or "") for key in ("type", "path"))
        own = name.startswith("sentence_transformers.")
        yield name.rpartition(".")[2] if own else name or "without a type", path


def _modes(place: Path) -> tuple[tuple[str, ...], bool]:
    """(modes of pooling, whether a prompt is left out)"""
    kept = read_json(place / "config.json")
    older = [mode for key, mode in MODES.items() if kept.get(key)]
    modes = kept.get("pooling_mode", older or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    known = isinstance(modes, list) and all(mode in MODES.values() for mode in modes)
    if not known or not modes:
        raise NotLoadable(
            f"{place / 'config.json'} pools by {modes}; known: {', '.join(MODES.values())}"
        )
    return tuple(modes), not kept.get("include_prompt", True)


def _prompt(folder: Path) -> str:
    """The default prompt, which sentence-transformers puts before a text."""
    kept = read_json(folder / "config_sentence_transformers.json")
    prompts = kept.get("prompts")
    name = str(kept.get("default_prompt_name") or "")
    found = prompts.get(name) if isinstance(prompts, dict) else None
    return found if isinstance(found, str) else ""


def _encodes(model: nn.Module) -> bool:
    """Whether sentence-transformers takes the encoder alone, as it does if the family has a class
    for it."""
    names = (each.__name__.removesuffix("Config") for each in type(model.config).__mro__)
    return any(hasattr(transformers, f"{name}EncoderModel") for name in names if name)
