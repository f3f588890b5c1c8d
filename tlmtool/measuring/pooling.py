"""How hidden states become one vector of a text: as a folder's `modules.json` says, else the mean.

The parts of a sentence-transformers model that follow its transformer: pooling, dense layers with
an activation, layer norms, normalizing; without that package.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text, regular
from tlmtool.measuring.inputs import folder_of
from tlmtool.models.guarding import inside, modules

MIB = 2**20
PLAIN = "by the mean"
SENTENCE = "sentence_embedding"
MOST = 2**16  # outputs of a dense layer
MODES = {  # {key of older folders: mode}, in the order in which several stand side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
Layer = Callable[[Tensor], Tensor]


@dataclass
class Pooling:
    """Hidden states (B, N, E) to vectors (B, F). `modes`: side by side; `layers`: what follows;
    `prompt`: put before each text, and not pooled if it is `apart`; `longest`: tokens that are
    read at most; `encoder`: whether an encoder-decoder's encoder gives the states."""

    modes: tuple[str, ...] = ("mean",)
    layers: list[Layer] = field(default_factory=list)
    prompt: str = ""
    apart: bool = False
    lower: bool = False
    longest: int | None = None
    encoder: bool = False
    words: str = PLAIN

    def texts(self, sentences: list[str]) -> list[str]:
        """What is read of them."""
        whole = [self.prompt + sentence for sentence in sentences]
        return [each.lower() for each in whole] if self.lower else whole

    def skipped(self, tokenizer: Any) -> int:
        """How many tokens at the start of a text are the prompt's, and not pooled."""
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
    """That of the folder that a model was loaded from; raises NotLoadable for one that cannot be
    followed, naming the part."""
    folder = folder_of(model)
    parts = [*_parts(folder)] if folder else []
    if not parts:
        return Pooling()
    found, told, width = Pooling(modes=()), [], 0
    for kind, place in parts:
        if kind == "Transformer":
            kept = _read(folder / place / "sentence_bert_config.json")
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
    if found.layers and found.layers[-1] is _unit:
        found.layers.pop()  # a cosine does that
    found.prompt = _prompt(folder)
    found.encoder = _encodes(model)
    told += [f"after the prompt {found.prompt!r}"] if found.prompt else []
    told += [f"of at most {found.longest} tokens"] if found.longest else []
    found.words = ", ".join(told) + ", as modules.json says"
    return found


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, path) of each part of a sentence-transformers model; of other packages the full name,
    which is none that is known."""
    if not (folder / "modules.json").is_file():
        return
    modules(folder)  # raises: paths that lead out of the folder
    for each in _read(folder / "modules.json", list):
        name, path = (str(each.get(key) or "") for key in ("type", "path"))
        own = name.startswith("sentence_transformers.")
        yield name.rpartition(".")[2] if own else name or "without a type", path


def _read(file: Path, form: type = dict) -> Any:
    """The JSON of a file, empty where there is none; raises NotLoadable for another form."""
    if not file.exists():
        return form()
    try:
        found = json.loads(read_text(file, MIB))
    except (ValueError, OSError, RecursionError) as error:
        raise NotLoadable(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(found, form) or (form is list and any(type(x) is not dict for x in found)):
        raise NotLoadable(f"{file} holds no {'list of objects' if form is list else 'object'}")
    return found


def _modes(place: Path) -> tuple[tuple[str, ...], bool]:
    """(modes of pooling, whether a prompt is left out)"""
    kept = _read(place / "config.json")
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
    """What sentence-transformers puts before a text where nothing else is asked for."""
    kept = _read(folder / "config_sentence_transformers.json")
    prompts = kept.get("prompts")
    name = str(kept.get("default_prompt_name") or "")
    found = prompts.get(name) if isinstance(prompts, dict) else None
    return found if isinstance(found, str) else ""


def _encodes(model: nn.Module) -> bool:
    """Whether sentence-transformers takes the encoder alone: where the family has such a class."""
    names = (each.__name__.removesuffix("Config") for each in type(model.config).__mro__)
    return any(hasattr(transformers, f"{name}EncoderModel") for name in names if name)


# ---- what may follow: (folder of the part, width) -> (layer, in words, width of what it gives)


def _weights(place: Path, names: dict[str, str], layer: nn.Module) -> None:
    """Fill a layer; `names`: {of its module: of the file's}."""
    file = place / "model.safetensors"
    if not file.is_file():
        raise NotLoadable(f"{place} has no model.safetensors, which its part of the model needs")
    if not inside(file, place.parent):
        raise NotLoadable(f"{file} is a link to outside of the folder: put the file itself there")
    try:
        held = {k: v.float() for k, v in load_file(regular(file)).items()}
        layer.load_state_dict({k: held[name] for k, name in names.items()}, strict=True)
    except Exception as error:  # of safetensors, of a key or a size that is another
        why = " ".join(str(error).split())[:200]
        raise NotLoadable(f"{file} does not fit {place / 'config.json'}: {why}") from None
    layer.eval().requires_grad_(False)


def _on(layer: nn.Module) -> Layer:
    return lambda x: layer.to(x.device)(x)


def _dense(place: Path, width: int) -> tuple[Layer, str, int]:
    kept, file = _read(place / "config.json"), place / "config.json"
    sizes = [kept.get(f"{k}_features") for k in ("in", "out")]
    name = kept.get("activation_function", "torch.nn.modules.activation.Tanh")
    of_torch = isinstance(name, str) and name.startswith("torch.nn.")
    kind = getattr(nn, name.rpartition(".")[2], None) if of_torch else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise NotLoadable(f"{file} names the activation {name}, which is none of torch.nn")
    _of_sentence(kept, file)
    if sizes[0] != width or not isinstance(sizes[1], int) or not 0 < sizes[1] <= MOST:
        raise NotLoadable(f"{file} has a layer from {sizes[0]} to {sizes[1]}: {width} come in")
    layer = nn.Linear(*sizes, bias=bool(kept.get("bias", True)))
    _weights(place, {key: f"linear.{key}" for key, _ in layer.named_parameters()}, layer)
    dense, active = _on(layer), _on(kind())
    said = f"a dense layer {sizes[0]} to {sizes[1]} ({kind.__name__})"
    if not kept.get("use_residual"):
        return lambda x: active(dense(x)), said, sizes[1]
    rest = nn.Identity()
    if sizes[0] != sizes[1]:
        rest = nn.Linear(*sizes, bias=False)
        _weights(place, {"weight": "residual.weight"}, rest)
    past = _on(rest)
    return lambda x: active(dense(x)) + past(x), f"{said} beside a residual", sizes[1]


def _norm(place: Path, width: int) -> tuple[Layer, str, int]:
    found = _read(place / "config.json").get("dimension")
    if found != width:
        raise NotLoadable(f"{place / 'config.json'} has dimension {found}: {width} come in")
    layer = nn.LayerNorm(width)
    _weights(place, {key: f"norm.{key}" for key, _ in layer.named_parameters()}, layer)
    return _on(layer), "a layer norm", width


def _normalize(place: Path, width: int) -> tuple[Layer, str, int]:
    _of_sentence(_read(place / "config.json"), place / "config.json")
    return _unit, "normalized", width


def _of_sentence(kept: dict[str, Any], file: Path) -> None:
    """Raises NotLoadable for a part that works on something else than the vector of a text."""
    names = [kept.get(f"module_{k}_name") or SENTENCE for k in ("input", "output")]
    if other := next((name for name in names if name != SENTENCE), None):
        raise NotLoadable(f"{file} works on {other}: tlm follows what works on {SENTENCE}")


def _unit(x: Tensor) -> Tensor:
    return normalize(x, dim=-1)


LAYERS = {"Dense": _dense, "LayerNorm": _norm, "Normalize": _normalize}
