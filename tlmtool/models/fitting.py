"""How the tensors of a folder fit a class of transformers, found without reading a number."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as their_logging

from tlmtool.failure import NotLoadable
from tlmtool.models.architectures import NAME, PREFIX, base_type
from tlmtool.models.classes import heads_of
from tlmtool.models.config import values_of
from tlmtool.models.folder import Folder
from tlmtool.models.modeling import model_class

SMALL = 8192  # with a larger number in its config a model is sized before its tables are filled
SLACK = 4 * 2**20  # numbers a model may hold that its files do not: sinusoids, a pooler
CONSTANTS = (".masked_bias",)  # ends of names in old checkpoints that no model takes
# Auto classes tried first, and last, where config.json names no class.
FIRST = ("AutoModelForPreTraining", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM")
PREDICTING = ("AutoModelForCausalLM", *FIRST)  # Auto classes of heads that predict tokens
LAST = ("AutoModel", "AutoModelForTextEncoding")


@dataclass
class Fit:
    """A class and the tensors of a folder. `missing`: names that the files lack. `unexpected`:
    names that the class does not take. `mismatched`: (name, shape in the files, in the class)."""

    model: PreTrainedModel  # on the meta device
    missing: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    mismatched: set[tuple[Any, ...]] = field(default_factory=set)
    more: dict[str, Any] = field(default_factory=dict)  # arguments to call the class with
    said: str = ""  # a sentence on what is unusual in the choice of the class


def loading_class(config: dict[str, Any]) -> Any:
    """The class that config.json names, `architectures[0]`; ours for `tlm-` types; None where it
    names none. Raises NotLoadable for a class that does not exist or is of another type."""
    names = config.get("architectures")
    names = [names] if isinstance(names, str) else names
    name = str(names[0]) if isinstance(names, list) and names else ""
    if not name:
        return None
    base: Any = getattr(transformers, name.removeprefix(NAME), None)
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        raise NotLoadable(f"config.json names the class {name}, which transformers lacks")
    kind = base_type(config["model_type"])
    written_for: Any = base.config_class
    if written_for.model_type != kind and base not in heads_of(kind).values():
        raise NotLoadable(f"config.json has type {config['model_type']} but the class {name}")
    return _ours(base, config["model_type"])


def chosen(folder: Folder, config: PreTrainedConfig) -> Fit:
    """The fit of the class that config.json names, or of its body where the files lack the head;
    where it names none, of the class that the tensors show."""
    cls = loading_class(folder.config)
    if cls is None:
        return best(folder, config)
    return without_head(fit(cls, folder, config), folder, config)


def fit(cls: Any, folder: Folder, config: PreTrainedConfig) -> Fit:
    """The fit of one class. A base model whose pooler is not in the files is made without one.

    Raises NotLoadable for a config whose model would be much larger than what the files hold.
    """
    if any(isinstance(size, int) and size > SMALL for _, size in values_of(config.to_dict())):
        _check_size(cls, folder, config)
    found = _fit(cls, folder, config, {})
    poolerless = found.missing and all("pooler." in name for name in found.missing)
    if poolerless and "add_pooling_layer" in _keywords(cls):
        found = _fit(cls, folder, config, {"add_pooling_layer": False})
        found.said = f"{folder} holds no pooler: {type(found.model).__name__} is loaded without one"
    return found


def without_head(found: Fit, folder: Folder, config: PreTrainedConfig) -> Fit:
    """The fit of the base model, where the files lack nothing of it and hold nothing of the head;
    else the fit that was found.

    It is for heads that predict tokens, which many encoders are published without. A checkpoint
    that lacks another head, or was written by tlm, is damaged.
    """
    model_type = folder.config["model_type"]
    heads = heads_of(model_type)
    own, predicting = heads.get("AutoModel"), [heads.get(name) for name in PREDICTING]
    if not found.missing or own is None or type(found.model) not in predicting:
        return found
    bare = fit(_ours(own, model_type), folder, config)
    if bare.missing or bare.mismatched or bare.unexpected - found.unexpected:
        return found
    lacking = "neither that head nor a pooler" if bare.more else "no such head"
    bare.said = (
        f"{folder} names the class {_name(found)} in config.json and holds {lacking}: its body "
        f"alone is loaded, as {_name(bare)}"
    )
    return bare


def _check_size(cls: Any, folder: Folder, config: PreTrainedConfig) -> None:
    """Raises NotLoadable for a model much larger than its files, before its tables are filled."""
    with torch.device("meta"):
        shell = cls(copy.deepcopy(config))
    size = sum(each.numel() for each in (*shell.parameters(), *shell.buffers()))
    there = sum(each.numbers for each in folder.tensors.values())
    if size > 4 * there + SLACK:
        raise NotLoadable(
            f"{folder} holds {there:,} numbers, but its config.json makes a model of {size:,}: one "
            "of the two is not of this checkpoint"
        )


def best(folder: Folder, config: PreTrainedConfig) -> Fit:
    """The fit where config.json names no class.

    The class is the one that takes most of the tensors and lacks none. Of several, it is the one
    with the head that the family is pretrained with.
    """
    model_type = folder.config["model_type"]
    heads = heads_of(model_type)
    decoder = folder.config.get("is_decoder") is True
    before = PREDICTING if decoder else FIRST
    order = [*before, *(name for name in heads if name not in (*before, *LAST)), *LAST]
    classes: dict[Any, None] = dict.fromkeys(heads[name] for name in order if name in heads)
    fits = [fit(_ours(each, model_type), folder, config) for each in classes]
    whole = [each for each in fits if not each.missing and not each.mismatched]
    if not whole:
        return _said(folder, fits[-1], "fit none of the classes that its type has")

    def rank(each: Fit) -> tuple[int, int]:
        names = each.model.state_dict().keys()
        return len(each.unexpected), sum(name not in names for name in folder.tensors)

    least = min(map(rank, whole))
    first, *others = [each for each in whole if rank(each) == least]
    also = " or ".join(_name(each) for each in others)
    return _said(folder, first, f"fit {_name(first)}{f' (or {also})' if also else ''}")


def spelled(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    """The names that a tensor may have: as given, with and without the name of the base model."""
    prefix = f"{model.base_model_prefix}."
    return name, prefix + name, name.removeprefix(prefix)


@contextmanager
def silenced() -> Iterator[None]:
    """Load and save without the report and the bars of transformers: our lines say the same."""
    log = logging.getLogger("transformers.modeling_utils")
    shown, before = their_logging.is_progress_bar_enabled(), log.disabled
    log.disabled = True  # not by a level: with one of its own it would print more
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        log.disabled = before
        if shown:
            their_logging.enable_progress_bar()


def _fit(cls: Any, folder: Folder, config: PreTrainedConfig, more: dict[str, Any]) -> Fit:
    settings = {"use_safetensors": True, "output_loading_info": True, "device_map": "meta"}
    with silenced():
        model, info = cls.from_pretrained(
            folder.path,
            config=copy.deepcopy(config),
            ignore_mismatched_sizes=True,
            **settings,
            **more,
        )
    missing, unexpected, mismatched = (
        set(info[f"{key}_keys"]) for key in ("missing", "unexpected", "mismatched")
    )
    unexpected = {name for name in unexpected if not name.endswith(CONSTANTS)}
    return Fit(model, missing, unexpected, mismatched, more)


def _ours(base: type[PreTrainedModel], model_type: str) -> type[PreTrainedModel]:
    return model_class(base, model_type) if model_type.startswith(PREFIX) else base


def _keywords(cls: Any) -> set[str]:
    """What a class, or the class of transformers that ours is made of, can be called with."""
    return {name for each in cls.__mro__[:2] for name in signature(each.__init__).parameters}


def _name(found: Fit) -> str:
    return type(found.model).__name__.removeprefix(NAME)


def _said(folder: Folder, found: Fit, how: str) -> Fit:
    found.said = (
        f"the config.json of {folder} names no class (architectures), and the weights {how}: they "
        f"are loaded as {_name(found)}{' without a pooler' if found.more else ''}"
    )
    return found
