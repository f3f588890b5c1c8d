"""A batch as a model takes it: padded with the token that its head skips, with token types where it
has a table of them."""

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tlmtool.data.batching import Batch
from tlmtool.failure import Failure, Usage


def name_of(model: nn.Module) -> str:
    """The path or Hub name that the model was loaded from, or else its class."""
    return getattr(model, "name_or_path", "") or type(model).__name__


def folder_of(model: nn.Module) -> Path | None:
    """The folder that a model was loaded from, also where the model has another name; None where
    there is no such folder."""
    name = getattr(model.config, "name_or_path", "")
    return Path(name) if name and Path(name).is_dir() else None


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the forward pass of the model names this argument."""
    return argument in inspect.signature(model.forward).parameters


def rows_of(model: nn.Module) -> int:
    """How many tokens the model has."""
    return model.config.get_text_config().vocab_size


def padding_of(model: nn.Module) -> int | None:
    """The padding token that config.json names, if the model has that token."""
    token = getattr(model.config.get_text_config(), "pad_token_id", None)
    return token if token is not None and 0 <= token < rows_of(model) else None


def skips_padding(model: nn.Module) -> bool:
    """Whether the head reads the last token of a row that is not the padding of config.json."""
    return isinstance(getattr(model, "score", None), nn.Module)


def check_token(model: nn.Module, largest: int) -> None:
    """Raises Usage where the model has no such token."""
    if largest >= rows_of(model):
        raise Usage(
            f"the tokenizer gives token {largest}; {name_of(model)} has {rows_of(model)} tokens: "
            "use the tokenizer it was made with"
        )


def inputs_of(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The batch as this model takes it, on its device. A token of a text that is beyond the model's
    table raises Usage.

    Rows are padded with the model's own padding token, and not with that of the tokenizer: heads
    look for the last token that is another one."""
    ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    check_token(model, int(ids.masked_fill(~real, 0).max()))
    inputs = batch.inputs | {"input_ids": ids.masked_fill(~real, _filling(model, ids, real))}
    if not _types(model, inputs.get("token_type_ids")):
        inputs.pop("token_type_ids", None)
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in inputs.items() if takes(model, name)}


def inputs_once(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """`inputs_of` for one forward pass without a cache. With a cache, a kernel that keeps a state
    would compute as it does when it generates."""
    return inputs_of(model, batch) | ({"use_cache": False} if takes(model, "use_cache") else {})


def outputs_of(model: nn.Module, own: nn.Module, inputs: dict[str, Any]) -> Any:
    """The output of a model. `own` is the model, `model` what wraps it.

    A head reads the last token that is not padding. Where the config names no padding token, it
    names the one of these rows during the pass. Each text then gets its score of a pass alone."""
    config = own.config.get_text_config()
    kept, mask = getattr(config, "pad_token_id", None), inputs.get("attention_mask")
    try:
        if padding_of(own) is None:
            fills = inputs["input_ids"][mask == 0] if mask is not None else []
            config.pad_token_id = int(fills[0]) if len(fills) else -1
        return model(**inputs)
    except ValueError as error:
        if isinstance(error, Failure) or not own.config.is_encoder_decoder:
            raise
        why = str(error)  # a head that reads the end token needs as many of them in each row
        raise Usage(f"{name_of(own)} cannot read these texts together: {why}") from error
    finally:
        config.pad_token_id = kept


def _filling(model: nn.Module, ids: Tensor, real: Tensor) -> int:
    """The model's own padding token. Heads of encoder-decoders count end tokens, so that an end
    token cannot pad there. Where no padding token is left, it is the first token that is neither an
    end token nor the last one of a row."""
    own, end = padding_of(model), getattr(model.config, "eos_token_id", None)
    ends = {*end} if isinstance(end, list | tuple) else {end}
    if own is not None and not (model.config.is_encoder_decoder and own in ends):
        return own
    last = (real.sum(1) - 1).clamp_min(0)
    taken = {*ends, *ids.gather(1, last[:, None]).flatten().tolist()}
    return next((token for token in range(rows_of(model)) if token not in taken), 0)


def _types(model: nn.Module, types: Tensor | None) -> bool:
    """Whether a model reads token types, which it does if it has a table of several. A decoder
    without a table would add rows of its table of tokens. Raises Usage for a type beyond the table.
    """
    table = getattr(model.config.get_text_config(), "type_vocab_size", None) or 0
    if types is None or table < 2:  # a table with one row is read by default
        return False
    if (largest := int(types.max())) >= table:
        raise Usage(
            f"the tokenizer gives token type {largest}; {name_of(model)} has {table} types: use "
            "the tokenizer it was made with"
        )
    return True


def oddities(model: nn.Module, tokenizer: Any) -> list[str]:
    """Warnings of a tokenizer that gives a model what it should not read. tlm leaves that out, but
    other libraries do not."""
    found, own = [], padding_of(model)
    pads = tokenizer.pad_token_id
    if skips_padding(model) and own is not None and pads is not None and pads != own:
        found.append(
            f"the head of {name_of(model)} skips token {own} as padding, its tokenizer pads with "
            f"{pads}: tlm pads with {own}, other libraries may score batches differently"
        )
    table = getattr(model.config.get_text_config(), "type_vocab_size", None) or 0
    types = "token_type_ids"
    if types in tokenizer.model_input_names and takes(model, types) and not table:
        found.append(
            f"the tokenizer of {name_of(model)} gives {types}, for which the model has no table: "
            "tlm leaves them out, other libraries would add rows of its table of tokens"
        )
    return found
