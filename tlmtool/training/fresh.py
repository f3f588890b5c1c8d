"""New models: a config, kernels in place of softmax attention, a tokenizer made for the data.

What is written is a folder without weights; they are drawn when the model is loaded, so that each
seed draws its own.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tlmtool.compression.choosing import chosen, kernel_of
from tlmtool.data import labelled
from tlmtool.data.language import language_splits
from tlmtool.data.parallel import parallel_splits
from tlmtool.data.vocabulary import trained
from tlmtool.failure import NotLoadable, Usage
from tlmtool.models import checkpoint
from tlmtool.models.architectures import ARCHITECTURES
from tlmtool.models.attending import attend
from tlmtool.models.modeling import adopt
from tlmtool.recipe import TRANSLATION, Recipe
from tlmtool.training.heads import LANGUAGE

ENDS = ("pad_token_id", "bos_token_id", "eos_token_id")
STARTS = {"decoder_start_token_id": "pad_token_id", "forced_eos_token_id": "eos_token_id"}
LONGEST = ("max_position_embeddings", "n_positions", "n_ctx")


def write(recipe: Recipe, folder: Path) -> None:
    """The config.json and the tokenizer of the new model. Raises Usage for a key or a value of the
    config that the family does not have."""
    config = config_of(recipe)
    if recipe.fresh.tokenizer:
        tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(recipe.fresh.tokenizer))
        if tokenizer is None:
            raise NotLoadable(f"--tokenizer {recipe.fresh.tokenizer} holds no tokenizer")
    else:
        longest = next((v for k in LONGEST if (v := getattr(config, k, None))), None)
        reads, wanted = _reads(config.model_type), recipe.fresh
        settings = (wanted.tokens, wanted.vocabulary, reads, longest)
        tokenizer = trained(texts_of(recipe), *settings)
    config.vocab_size, config.architectures = len(tokenizer), None  # of no head yet
    for key in ENDS:
        if hasattr(config, key):
            setattr(config, key, getattr(tokenizer, key))
    for key, of in STARTS.items():
        if hasattr(config, key):
            setattr(config, key, getattr(tokenizer, of))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def name_of(recipe: Recipe) -> str:
    """What the new model is called: its family, or the name of the folder of its config."""
    path = Path(recipe.fresh.from_config)
    return path.absolute().parent.name if path.name == "config.json" else path.name


def config_of(recipe: Recipe) -> Any:
    """The config of a family, or of a file or folder, with what `config.KEY` sets."""
    named, given = recipe.fresh.from_config, dict(recipe.config)
    path = Path(named).expanduser()
    kind, kept = named, {}
    if path.is_dir() or path.name == "config.json":
        kept = checkpoint.read_config(path if path.is_dir() else path.parent)
        kind = kept["model_type"]
        if kind not in ARCHITECTURES:
            raise Usage(
                f"--from-config {named} is of type {kind}: it takes a plain family's config"
            )
    if kind not in ARCHITECTURES:
        near = get_close_matches(kind, ARCHITECTURES, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(ARCHITECTURES)}"
        raise Usage(f"--from-config {named} is no family and no config.json here: {hint}")
    cls = CONFIG_MAPPING[kind]
    usual = cls()
    known = {*usual.to_dict(), *cls.attribute_map}
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(str(key), known, 1, 0.5)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            raise Usage(f"a {kind} has no config.{key}{hint}")
        before = getattr(usual, key)
        numbers = isinstance(before, float) and isinstance(value, int)
        if before is not None and not isinstance(value, type(before)) and not numbers:
            raise Usage(f"config.{key} is {value!r}, not of type {type(before).__name__}")
    try:
        return cls(**kept | given)
    except Exception as error:
        raise Usage(f"a {kind} cannot be so: {_first(error)}") from None


def build(recipe: Recipe, folder: Path, head: Any, changes: dict[str, Any] | None) -> nn.Module:
    """The model of a folder that `write` made, of weights drawn now, on the recipe's device."""
    config = AutoConfig.from_pretrained(folder, **(changes or {}))
    try:
        model = head.from_config(config)
    except Exception as error:
        raise Usage(
            f"a {config.model_type} of this config cannot be made: {_first(error)}"
        ) from None
    if recipe.attention.kind:
        form = kernel_of(recipe.attention)
        try:
            attend(model, dict.fromkeys(chosen(model, recipe.attention.layers), form))
        except ValueError as error:
            raise Usage(str(error)) from None
        adopt(model)
    return model.to(checkpoint.device_of(recipe.device)).eval()


def texts_of(recipe: Recipe) -> list[str]:
    """The training texts that a tokenizer learns from."""
    given = recipe.training
    if given.task in LANGUAGE:
        return language_splits(given.data)[0]
    if given.task == TRANSLATION:
        pairs = parallel_splits(given.data, given.languages, given.text, given.label).train
        return [text for pair in pairs for text in pair]
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    train = labelled.splits(given.task, given.data, **columns).train
    return [text for each in train for text in (each.first, each.second) if text]


def _reads(kind: str) -> str:
    """How a family reads: `mlm`, `clm` or `seq2seq`."""
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "seq2seq"
    return "mlm" if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else "clm"


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
