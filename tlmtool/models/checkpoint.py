"""Load a checkpoint folder: whole, or refused with a sentence; what is not as it says is told."""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from tlmtool.failure import Failure, NotLoadable, Usage
from tlmtool.models.fitting import Fit, best, fit, loading_class, silenced
from tlmtool.models.folder import guard, read_config, resolve
from tlmtool.models.ties import apart, loosen, tie
from tlmtool.models.tokens import check_tokenizer
from tlmtool.models.weights import FLOATS, INTEGERS, Stored, dtypes_of, equal, stored

log = logging.getLogger("tlmtool")
NAMED = 20  # tensors that a warning names
Warn = Callable[[str], None]


def warned(text: str) -> None:
    """A warning on our log."""
    log.warning("warning: %s", text)


def load(
    name: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    head: type | None = None,
    changes: dict[str, Any] | None = None,
    has: bool = False,
    warn: Warn = warned,
) -> PreTrainedModel:
    """A checkpoint (dense or factorized) with the class it was saved with, in evaluation mode.

    `dtype` "auto": the one its weights are stored in, of several the widest. `head`: an Auto class
    instead, whose head is drawn at random unless the checkpoint `has` it; `changes`: keys of
    config.json. Raises NotLoadable, in one sentence, for whatever cannot be loaded whole; `warn` is
    told of tensors that have no place in the model, and of all that was not as config.json says.

    >>> load("no/such/folder/anywhere")
    Traceback (most recent call last):
        ...
    tlmtool.failure.NotLoadable: no/such/folder/anywhere does not exist
    """
    folder = resolve(os.fspath(name), revision)
    found, wanted = _looked_at(folder, dtype, warn)  # refused before memory is taken
    place, own = device_of(device), head is None or has
    if head is None:
        _check_whole(found.model, found.missing, folder, True)
    if place.type == "meta":
        raise Usage("device meta holds no numbers: choose cpu or cuda")
    try:
        with silenced():
            model, info = (head or type(found.model)).from_pretrained(
                folder,
                config=AutoConfig.from_pretrained(folder, **(changes or {})),
                dtype=wanted,
                use_safetensors=True,
                output_loading_info=True,
                **({} if head else found.more),
            )
    except Failure:
        raise
    except Exception as error:
        raise _unloadable(folder, error) from error
    if head:
        _check_whole(model, info["missing_keys"], folder, has)
    loosen(model)
    _check_numbers(model, folder)
    if left := found.unexpected & {*info["unexpected_keys"]}:
        warn(_left_out(folder, left, model))
    if not own and (drawn := _below(model, info["missing_keys"])):
        warn(f"{folder} lacks weights, drawn at random like the new head: {_listed(drawn)}")
    return model.to(place).eval()


def empty(folder: Path, dtype: str = "auto", warn: Warn = warned) -> PreTrainedModel:
    """The model of a folder on the meta device: its modules and sizes, no weights; `warn` as in
    `load`."""
    found, wanted = _looked_at(folder, dtype, warn)
    _check_whole(found.model, found.missing, folder, True)
    for target, source in apart(found.model):  # on meta transformers has no numbers to compare
        names = (_spelled(found.model, name) for name in (target, source))
        if equal(folder, *names, wanted):
            tie(found.model, target, source)
    loosen(found.model)
    if found.unexpected:
        warn(_left_out(folder, found.unexpected, found.model))
    return found.model.to(wanted).eval()


def described(folder: Path) -> dict[str, Any]:
    """config.json, with the class that the weights are loaded with where it names none."""
    kept = read_config(folder)
    cls = loading_class(kept) or type(_found(folder, lambda _: None)[0].model)
    return kept | {"architectures": [cls.__name__]}


def _looked_at(folder: Path, dtype: str | torch.dtype, warn: Warn) -> tuple[Fit, torch.dtype]:
    """(what a folder holds, on the meta device; the dtype to hold it in).

    Raises NotLoadable for tensors that are no weights, or of other shapes than config.json says."""
    found, held = _found(folder, warn)
    taken = _taken(found, held)
    for key, each in held.items():
        known = key in taken or key in found.unexpected  # others are left out by design
        ours = taken.get(key)
        number = ours is None or ours.is_floating_point()
        if known and number and each.dtype not in (*FLOATS, *(INTEGERS if ours is None else ())):
            raise NotLoadable(
                f"{folder}: {key} is stored as {each.dtype}; tlm works on weights in float32, "
                "bfloat16 or float16, so take the checkpoint that this one was made from"
            )
    if found.mismatched:
        key, theirs, wanted = min(found.mismatched)
        raise NotLoadable(
            f"{folder}: {key} is {tuple(theirs)} in the file but {tuple(wanted)} by config.json"
        )
    if found.more:
        warn(f"{folder} holds no pooler: {type(found.model).__name__} is loaded without one")
    several = dtypes_of({key: held[key] for key in taken} or held)
    used = next(iter(several), torch.float32) if dtype == "auto" else dtype
    used = getattr(torch, used) if isinstance(used, str) else used
    if len(several) > 1:
        counts = " and ".join(f"{_short(each)} ({n} tensors)" for each, n in several.items())
        warn(f"{folder} holds {counts}: all are loaded, and written, in {_short(used)}")
    elif dtype == "auto" and (said := found.model.config.dtype) not in (None, used):
        warn(
            f"the config.json of {folder} says {_short(said)}, but its weights are stored, and are "
            f"loaded, in {_short(used)}"
        )
    return found, used


def _taken(found: Fit, held: dict[str, Stored]) -> dict[str, torch.Tensor]:
    """{name in the files: the model's tensor}, with or without the name of the base model."""
    ours = found.model.state_dict()
    spelled = {key: _spelled(found.model, key) for key in held}
    return {
        key: ours[next(name for name in names if name in ours)]
        for key, names in spelled.items()
        if any(name in ours for name in names)
    }


def _spelled(model: PreTrainedModel, name: str) -> tuple[str, str, str]:
    """A name, with and without the name of the base model."""
    prefix = f"{model.base_model_prefix}."
    return name, prefix + name, name.removeprefix(prefix)


def _found(folder: Path, warn: Warn) -> tuple[Fit, dict[str, Stored]]:
    """(the fit of the class that config.json names, or that the tensors show; the tensors)."""
    kept, held = read_config(folder), stored(folder)
    try:
        config, cls = AutoConfig.from_pretrained(folder), loading_class(kept)
        if cls is not None:
            return fit(cls, folder, config, held), held
        found, said = best(folder, kept, config, held)
        warn(said)
        return found, held
    except Failure:
        raise
    except Exception as error:
        raise _unloadable(folder, error) from error


def _check_whole(model: PreTrainedModel, missing: Iterable[str], folder: Path, own: bool) -> None:
    """Raises NotLoadable for weights that are not there. `own`: with the head that the model was
    saved with, which is not to be drawn at random; neither is a pooler that a head reads."""
    wanted = sorted(missing if own else _below(model, missing))
    wanted = [key for key in wanted if own or "pooler." not in key]
    if wanted:
        kind = type(model).__name__
        raise NotLoadable(f"{folder} lacks {len(wanted)} weights, such as {wanted[0]}, of {kind}")


def _below(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Those that are of the base model, not of a head."""
    prefix = f"{model.base_model_prefix}."
    ours = {name for name, _ in model.base_model.named_parameters()}
    return {name for name in names if name.removeprefix(prefix) in ours}


def _check_numbers(model: PreTrainedModel, folder: Path) -> None:
    """Raises NotLoadable for a weight that holds no number."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise NotLoadable(f"{folder}: the weight {key} holds NaN or infinity")


def _left_out(folder: Path, names: Iterable[str], model: PreTrainedModel) -> str:
    kind = type(model).__name__
    return f"{folder} holds tensors that {kind} has no place for, left out: {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    """Names, of many the first."""
    listed = sorted(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unloadable(folder: Path, error: BaseException, what: str = "") -> NotLoadable:
    """The first line of what transformers, which raises many kinds, says of a config or file."""
    first = next((x for x in str(error).splitlines() if x.strip()), type(error).__name__)
    return NotLoadable(f"{what}{folder} cannot be loaded: {first.strip()[:300]}")


def device_of(device: str) -> torch.device:
    """`auto` is CUDA where there is one; a device that this machine lacks raises Usage."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Usage(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def load_tokenizer(folder: Path) -> Any | None:
    """The tokenizer that lies in a checkpoint folder, or None."""
    known = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
    guard(folder)
    if not any((folder / name).exists() for name in known):
        return None
    check_tokenizer(folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # of Rust
            raise _unloadable(folder, error, "the tokenizer in ") from error
        raise
