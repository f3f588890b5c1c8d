"""New models: a config, kernels instead of softmax attention, a tokenizer made for the data.

A folder without weights is written. The weights are drawn when the model is loaded, so that each
seed draws its own.
"""

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from tlmtool.compression.choosing import check_length, chosen, kernel_of, refused
from tlmtool.data.labelled import splits
from tlmtool.data.language import language_splits
from tlmtool.data.parallel import parallel_splits
from tlmtool.data.vocabulary import trained
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.counting import forward_flops
from tlmtool.measuring.outputs import position_limit
from tlmtool.models import checkpoint
from tlmtool.models.architectures import ALIASES, ARCHITECTURES, PREFIX
from tlmtool.models.attending import attend
from tlmtool.models.config import check_counts, config_in, reads_text
from tlmtool.models.folder import Folder
from tlmtool.models.known import NAMES
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import sites
from tlmtool.recipe.building import Recipe
from tlmtool.tasks.table import TASKS

SIZES = ("vocab_size", "decoder_vocab_size")
ENDS = ("pad_token_id", "bos_token_id", "eos_token_id")
STARTS = {"decoder_start_token_id": "pad_token_id", "forced_eos_token_id": "eos_token_id"}
OURS = (*SIZES, *ENDS, *STARTS, "model_type", "architectures", "dtype", "torch_dtype")
OURS += ("transformers_version", "tlm")
NEEDS = {"mlm": ("pad", "mask"), "clm": (), "seq2seq": ("pad", "eos")}
LONGEST = ("max_position_embeddings", "n_positions", "n_ctx")


def write(recipe: Recipe, folder: Path) -> None:
    """Write the config.json and the tokenizer of the new model.

    Raises Usage for a key or a value of the config that the family does not have, and for a
    tokenizer without a token that the task needs. Raises NotLoadable for data that no tokenizer can
    be trained on."""
    config = config_of(recipe)
    reads, longest = _reads(config.model_type), _positions(config)
    labelled = TASKS[recipe.training.task].labelled
    if recipe.attention.kind:
        check_length(recipe.attention, recipe.training.max_length)
    if given := recipe.fresh.tokenizer:
        tokenizer = checkpoint.load_tokenizer(given)
        if tokenizer is None:
            raise NotLoadable(f"--tokenizer {given} holds no tokenizer")
        for kind in () if labelled else NEEDS[reads]:
            if getattr(tokenizer, f"{kind}_token_id") is None:
                raise Usage(f"--tokenizer {given} has no {kind} token, which this task needs")
    else:
        settings = (recipe.fresh.tokens, recipe.fresh.vocabulary, reads, longest)
        tokenizer = trained(texts_of(recipe), *settings)
    config.architectures = None  # it has no head yet
    for key in (k for k in SIZES if hasattr(config, k)):
        setattr(config, key, len(tokenizer))
    tokens = {key: key for key in ENDS} | STARTS
    for key, of in tokens.items():
        if hasattr(config, key):
            setattr(config, key, getattr(tokenizer, of))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_name(recipe: Recipe) -> str:
    """The name of the new model: its family, or the name of the folder of its config."""
    path = Path(recipe.fresh.from_config).expanduser()
    return path.resolve().parent.name if path.name == "config.json" else path.resolve().name


def config_of(recipe: Recipe) -> Any:
    """The config of a family, or of a file or folder, with what `config.KEY` sets. Raises Usage."""
    name, given = recipe.fresh.from_config, dict(recipe.config)
    path = Path(name).expanduser()
    kind, kept = name, {}
    if path.is_dir() or path.name == "config.json":
        kept = Folder(path if path.is_dir() else path.parent).config
        kind = kept["model_type"]
        if kind.startswith(PREFIX):
            raise Usage(
                f"--from-config {name} is of type {kind}: it takes the config of a base type"
            )
    if kind in (*ALIASES, *NAMES):
        raise Usage(f"--from-config {name}: that is a checkpoint with weights; name a family")
    if kind not in CONFIG_MAPPING_NAMES or not reads_text(kind):
        near = get_close_matches(kind, filter(reads_text, CONFIG_MAPPING_NAMES), 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(ARCHITECTURES)} ..."
        raise Usage(f"--from-config {name} is no text model of transformers, and no file: {hint}")
    cls = CONFIG_MAPPING[kind]
    usual = cls()
    known = {*usual.to_dict(), *cls.attribute_map}
    for key, value in given.items():
        if key in OURS:
            raise Usage(f"config.{key} cannot be set: it follows from the other settings")
        if key not in known:
            near = get_close_matches(str(key), known, 1, 0.5)
            hint = f"; did you mean config.{near[0]}?" if near else ""
            raise Usage(f"a {kind} has no config.{key}{hint}")
        before = getattr(usual, key)
        if isinstance(before, float) and isinstance(value, str | int):
            with suppress(ValueError):  # YAML takes 1e-5 for text
                given[key] = value = float(value)
        if before is not None and type(value) is not type(before):
            raise Usage(f"config.{key} is {value!r}, not of type {type(before).__name__}")
    try:
        check_counts(given, f"config of --from-config {name}")
        return cls(**kept | given)
    except Exception as error:
        raise _unfit(kind, error) from None


def build(recipe: Recipe, folder: Folder, head: Any, changes: dict[str, Any] | None) -> nn.Module:
    """The model of a folder that `write` made, with weights drawn now, on the recipe's device.

    It is in float32 unless the recipe says otherwise. `head` is an Auto class, `changes` are for
    the config. Raises Usage for a config that no model runs with, or that does not fit the kernel.
    """
    config = config_in(folder.path, **(changes or {}))
    config.dtype = None  # the stored one is of weights that are not there any more
    try:
        model = head.from_config(config)
    except Exception as error:
        raise _unfit(config.model_type, error) from None
    if recipe.attention.kind:
        kernel = kernel_of(recipe.attention)
        try:
            attend(model, dict.fromkeys(chosen(model, recipe.attention.layers), kernel))
        except ValueError as error:
            raise refused(error, recipe.attention) from None
        adopt(model)
    try:  # on the meta device: some wrong values show in the forward pass alone
        if {*(roles := sites(model)).values()} <= {"embedding"}:
            raise ValueError("it would have no linear layer")
        forward_flops(model, 2, 1, roles)
    except Exception as error:
        raise _unfit(config.model_type, error) from None
    dtype = torch.float32 if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    return model.to(checkpoint.device_of(recipe.device), dtype).eval()


def texts_of(recipe: Recipe) -> list[str]:
    """The training texts, on which a tokenizer is trained."""
    given, task = recipe.training, TASKS[recipe.training.task]
    if task.kind == "language":
        causal = task.name == "clm"
        return language_splits(given.data, tail=causal, verbatim=given.verbatim)[0]
    if task.kind == "translation":
        pairs = parallel_splits(given.data, given.languages, given.text, given.label).train
        return [text for pair in pairs for text in pair]
    columns = {"text": given.text, "pair": given.pair, "label": given.label}
    train = splits(given.task, given.data, **columns).train
    return [text for each in train for text in (each.first, each.second) if text]


def _reads(kind: str) -> str:
    """How a family reads: `mlm`, `clm` or `seq2seq`."""
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "seq2seq"
    return "mlm" if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else "clm"


def _positions(config: Any) -> int | None:
    """The longest text that the family's position table takes; None without such a table."""
    if next((v for k in LONGEST if (v := getattr(config, k, None))), None) is None:
        return None
    with torch.device("meta"), suppress(Exception):  # `build` says why a model cannot be made
        return position_limit(transformers.AutoModel.from_config(config))
    return None


def _unfit(kind: str, error: Exception) -> Usage:
    return Usage(f"a {kind} does not take these values of config: {_first(error)}")


def _first(error: Exception) -> str:
    """The first two lines of an error; the second often holds the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
