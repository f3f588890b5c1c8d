"""Loads a checkpoint's folder whole or not at all; what is unusual in it becomes a warning."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from tlmtool.failure import Failure, NotLoadable, Usage
from tlmtool.models.config import config_in
from tlmtool.models.fitting import Fit, chosen, silenced, spelled
from tlmtool.models.folder import Folder, Name
from tlmtool.models.streaming import give_back, stream
from tlmtool.models.ties import apart, loosen, tie
from tlmtool.models.weights import FLOATS, INTEGERS, dtypes_of, equal

log = logging.getLogger("tlmtool")
NAMED = 20  # the most tensors that a warning names
PART = 2**24  # numbers that are checked at once: more of them take more memory
Warn = Callable[[str], None]


def warned(text: str) -> None:
    """Send a warning to our log."""
    log.warning("warning: %s", text)


def load(
    name: Name,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    head: Any = None,
    changes: dict[str, Any] | None = None,
    has: bool = False,
    room: int | None = None,
    warn: Warn = warned,
) -> PreTrainedModel:
    """A checkpoint, dense or factorized, as the class it was saved with, in evaluation mode.

    `dtype` "auto" is the one that the weights are stored in, or the widest of several. `head` is an
    Auto class to load with instead; its head is drawn at random unless the checkpoint `has` it.
    `changes` are keys of config.json. With `room` the model is streamed: at most this many bytes of
    weights stay in memory between blocks. `warn` gets a sentence for each tensor without a place in
    the model, and for whatever is not as config.json says. Raises NotLoadable, in one sentence, for
    whatever cannot be loaded whole.

    >>> load("no/such/folder/anywhere")
    Traceback (most recent call last):
        ...
    tlmtool.failure.NotLoadable: no/such/folder/anywhere does not exist
    """
    folder = Folder.of(name, revision)
    found, wanted = _looked_at(folder, dtype, warn)  # refused before memory is taken
    place, own = device_of(device), head is None or has
    if head is None:
        _check_whole(found.model, found.missing, folder, True)
    if place.type == "meta":
        raise Usage("device meta holds no numbers: choose cpu or cuda")
    try:
        with silenced():
            kind: Any = head or type(found.model)
            model, info = kind.from_pretrained(
                folder.path,
                config=config_in(folder.path, **(changes or {})),
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
    if room is not None and place.type == "cpu":
        stream(model, room)
    _check_numbers(model, folder)
    if left := found.unexpected & {*info["unexpected_keys"]}:
        warn(_left_out(folder, left, model))
    if not own and (drawn := _below(model, info["missing_keys"])):
        warn(f"{folder} lacks weights, drawn at random like the new head: {_listed(drawn)}")
    return model.to(place).eval()


def empty(name: Name, dtype: str | torch.dtype = "auto", warn: Warn = warned) -> PreTrainedModel:
    """The model of a folder on the meta device: its modules and sizes, without weights. Warns and
    raises as `load`."""
    folder = Folder.of(name)
    found, wanted = _looked_at(folder, dtype, warn)
    model: Any = found.model
    _check_whole(model, found.missing, folder, True)
    for target, source in apart(model):  # on meta transformers has no numbers to compare
        one, other = spelled(model, target), spelled(model, source)
        if equal(folder.weight_files, one, other, wanted):
            tie(model, target, source)
    loosen(model)
    if found.unexpected:
        warn(_left_out(folder, found.unexpected, model))
    return model.to(wanted).eval()


def described(name: Name) -> dict[str, Any]:
    """config.json, with the class that the weights are loaded with."""
    folder = Folder.of(name)
    return folder.config | {"architectures": [type(_found(folder).model).__name__]}


def load_tokenizer(name: Name) -> Any | None:
    """The tokenizer in a checkpoint's folder; None where there is none."""
    folder = Folder.of(name)
    if not folder.has_tokenizer:
        return None
    try:
        return AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # of Rust
            raise _unloadable(folder, error, "the tokenizer in ") from error
        raise


def device_of(device: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. Raises Usage where it is missing."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Usage(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def _looked_at(folder: Folder, dtype: str | torch.dtype, warn: Warn) -> tuple[Fit, torch.dtype]:
    """(how the tensors fit their class, on the meta device; the dtype to load them in).

    Raises NotLoadable for tensors that are no weights, or of other shapes than config.json says.
    """
    for note in folder.notes:
        warn(note)
    found, held = _found(folder), folder.tensors
    taken = _taken(found, folder)
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
    if found.said:
        warn(found.said)
    return found, _dtype(folder, found, dtype, list(taken), warn)


def _dtype(
    folder: Folder, found: Fit, asked: str | torch.dtype, taken: list[str], warn: Warn
) -> torch.dtype:
    """The dtype to load in; warns where the files hold several, or not what config.json says."""
    held = folder.tensors
    several = dtypes_of({key: held[key] for key in taken} or held)
    used = next(iter(several), torch.float32) if asked == "auto" else asked
    used = getattr(torch, used) if isinstance(used, str) else used
    if len(several) > 1 and not folder.quantized:  # which holds a table in float16
        counts = " and ".join(f"{_short(each)} ({n} tensors)" for each, n in several.items())
        other = "; --dtype chooses another" if asked == "auto" else ""
        warn(f"{folder} holds {counts}: all are loaded, and written, in {_short(used)}{other}")
    elif asked == "auto" and (said := found.model.config.dtype) not in (None, used):
        warn(
            f"the config.json of {folder} says {_short(said)}, but its weights are stored, and are "
            f"loaded, in {_short(used)}"
        )
    return used


def _taken(found: Fit, folder: Folder) -> dict[str, torch.Tensor]:
    """{name in the files: the model's tensor}, for the tensors that the model takes."""
    ours, taken = found.model.state_dict(), {}
    for key in folder.tensors:
        if name := next((each for each in spelled(found.model, key) if each in ours), None):
            taken[key] = ours[name]
    return taken


def _found(folder: Folder) -> Fit:
    """The fit of the class that config.json names, or else of the one that the tensors show."""
    folder.check(weights=True)
    try:
        return chosen(folder, config_in(folder.path))
    except Failure:
        raise
    except Exception as error:
        raise _unloadable(folder, error) from error


def _check_whole(model: PreTrainedModel, missing: Iterable[str], folder: Folder, own: bool) -> None:
    """Raises NotLoadable for missing weights. With `own`, the model has the head it was saved with,
    and nothing may be drawn at random; else a new head may be, with the pooler that it reads."""
    wanted = sorted(missing if own else _below(model, missing))
    wanted = [key for key in wanted if own or "pooler." not in key]
    if wanted:
        kind = type(model).__name__
        raise NotLoadable(f"{folder} lacks {len(wanted)} weights, such as {wanted[0]}, of {kind}")


def _below(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """The names that belong to the base model, not to a head."""
    prefix = f"{model.base_model_prefix}."
    ours = {name for name, _ in model.base_model.named_parameters()}
    return {name for name in names if name.removeprefix(prefix) in ours}


def _check_numbers(model: PreTrainedModel, folder: Folder) -> None:
    """Raises NotLoadable for a weight that holds NaN or infinity."""
    for key, value in model.state_dict().items():
        for part in value.flatten().split(PART) if value.is_floating_point() else ():
            if not torch.isfinite(part).all():
                raise NotLoadable(f"{folder}: the weight {key} holds NaN or infinity")
            give_back()


def _left_out(folder: Folder, names: Iterable[str], model: PreTrainedModel) -> str:
    kind = type(model).__name__
    return f"{folder} holds tensors that {kind} has no place for, left out: {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    """The names, or the first NAMED of them and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def _short(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def _unloadable(folder: Folder, error: BaseException, what: str = "") -> NotLoadable:
    """The failure with the first line of what transformers says, which raises many kinds."""
    first = next((x for x in str(error).splitlines() if x.strip()), type(error).__name__)
    return NotLoadable(f"{what}{folder} cannot be loaded: {first.strip()[:300]}")
