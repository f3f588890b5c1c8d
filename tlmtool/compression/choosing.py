"""Which attention modules become kernels: named layers, or as many as a loss allows."""

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from tlmtool.attention import Attention, named
from tlmtool.compression.conversion import convert
from tlmtool.failure import Usage
from tlmtool.models.attending import attention_sites, why_not
from tlmtool.recipe.attention import Attending, flag
from tlmtool.recipe.setting import settings_of

Measure = Callable[[Any], float]  # model -> how far its loss has risen
PLACING = ("kind", "layers")  # keys that are not choices of a kernel


def kernel_of(wanted: Attending) -> Attention:
    """The kernel that a recipe asks for.

    Raises Usage for a choice that the kernel does not have, or a value that it cannot take.
    """
    assert wanted.kind is not None
    cls = named(wanted.kind)
    known = {field.name for field in fields(cls)}
    given = _given(wanted)
    if foreign := sorted(set(given) - known):
        has = ", ".join(map(flag, sorted(known))) or "no choices"
        raise Usage(f"{wanted.kind} attention has no {flag(foreign[0])}: it has {has}")
    try:
        return cls(**given)
    except ValueError as error:
        raise refused(error, wanted) from None


def _given(wanted: Attending) -> dict[str, Any]:
    return {k: v for k, v in vars(wanted).items() if v is not None and k not in PLACING}


def refused(error: ValueError, wanted: Attending) -> Usage:
    """What a kernel or a model refuses, with flags instead of the names of fields.

    Replaced are a field with its given value ('rank 40'), and one with its metavar ('length N').
    """
    said, given = str(error), _given(wanted)
    for each in settings_of(Attending):
        shown = [each.metavar, *([str(given[each.path])] if each.path in given else [])]
        for value in filter(None, shown):
            pattern = rf"(?<!-)\b{each.path} {re.escape(value)}\b"
            said = re.sub(pattern, f"{flag(each.path)} {value}", said)
    return Usage(said)


def check_length(wanted: Attending, longest: int) -> None:
    """Raises Usage where texts may be longer than the one length that the kernel is built for."""
    kernel = kernel_of(wanted)
    try:
        kernel.check_length(longest)
    except ValueError as error:
        raise Usage(
            f"{refused(error, wanted)}, and --max-length {kernel.length} cuts texts"
        ) from None


def chosen(model: Any, layers: str | None) -> list[str]:
    """The attention modules of some layers, in the model's order; of all layers for None.

    `layers`: '3-5' or '0,2', of every stack of layers or of one ('encoder', 'decoder:0-1'). Raises
    Usage for a family that keeps softmax attention, or a layer that is not there.
    """
    try:
        found = attention_sites(model)
    except ValueError as error:
        raise Usage(str(error)) from None
    if layers is None:
        return found
    side, _, numbers = layers.rpartition(":") if layers[-1].isdigit() else (layers, "", "")
    here = [path for path in found if not side or f".{path}".startswith(f".{side}.")]
    if not here or (side and len(here) == len(found)):
        raise Usage(f"--layers {layers}: this model has no encoder beside a decoder")
    layer_of = {path: _layer(path) for path in here}
    last, wanted = max(layer_of.values()), set()
    for part in numbers.split(",") if numbers else [f"0-{last}"]:
        first, _, end = part.partition("-")
        low, high = int(first), int(end or first)
        if not low <= high <= last:
            raise Usage(f"--layers {layers} is out of range: the layers of this model are 0-{last}")
        wanted |= set(range(low, high + 1))
    return [path for path in here if layer_of[path] in wanted]


def _layer(path: str) -> int:
    """The number of the layer that a module is in.

    Raises Usage where its path has none.
    """
    found = next((int(part) for part in path.split(".") if part.isdigit()), None)
    if found is None:
        raise Usage(f"--layers: {path} is in no numbered layer: leave out --layers")
    return found


def convertible(model: Any, layers: str | None) -> tuple[list[str], dict[str, str]]:
    """(the `chosen` modules that take a kernel, {each of the others: why it does not}).

    Raises Usage if none takes one, or if one that a layer's number names does not.
    """
    paths = chosen(model, layers)
    left = {p: w for p in paths if (w := why_not(model.base_model.get_submodule(p))) is not None}
    able = [path for path in paths if path not in left]
    if left and (not able or (layers and layers[-1].isdigit())):
        path, why = next(iter(left.items()))
        rest = [
            p for p in chosen(model, None) if why_not(model.base_model.get_submodule(p)) is None
        ]
        free = f"those that take a kernel: {', '.join(rest)}" if rest else "no other takes a kernel"
        raise Usage(f"{path} {why}; {free}")
    return able, left


def affordable(
    model: Any,
    paths: Iterable[str],
    kernel: Attention,
    batches: list[Any],
    measure: Measure,
    budget: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """(a converted copy, a record of each converted module, what each module costs alone).

    Modules are converted from the least sensitive on, while the measured rise of the loss stays
    within `budget`. Kernels start from random tensors, so the copy is the very model that was
    measured. Raises Usage if not even one module stays within the budget.
    """
    paths = list(paths)

    def made(some: list[str]) -> tuple[Any, list[dict[str, Any]]]:
        tried = copy.deepcopy(model)
        return tried, convert(tried, dict.fromkeys(some, kernel), batches)

    alone: list[dict[str, Any]] = []
    for done, path in enumerate(paths):
        if progress:
            progress(done, len(paths))
        alone.append({"site": path, "increase": measure(made([path])[0])})
    alone.sort(key=lambda each: each["increase"])
    best, records, taken = None, list[dict[str, Any]](), list[str]()
    for each in alone:
        candidate = [p for p in paths if p in (*taken, each["site"])]
        tried, found = made(candidate)
        each["together"] = measure(tried)
        if not each["together"] <= budget:  # also if it is NaN
            break
        best, records, taken = tried, found, candidate
    if best is None:
        raise Usage(
            f"no layer stays within --max-loss-increase {budget:g}: the least sensitive, "
            f"{alone[0]['site']}, raises the loss by {alone[0]['increase']:.4f}"
        )
    return best, records, alone
