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

Measure = Callable[[Any], float]  # model -> by what share its loss has grown
ELSEWHERE = ("kind", "layers", "max_loss_increase")  # what of a recipe is no choice of a kernel


def kernel_of(wanted: Attending) -> Attention:
    """The kernel of a recipe. Raises Usage for a choice that it does not have, or cannot make."""
    cls = named(wanted.kind)
    known = {field.name for field in fields(cls)}
    given = _given(wanted)
    if foreign := sorted(set(given) - known):
        has = ", ".join(map(flag, sorted(known)))
        raise Usage(f"{wanted.kind} attention has no {flag(foreign[0])}: it has {has}")
    if wanted.w_o == "full" and wanted.length is None:
        raise Usage(
            "--w-o full is built for one length: give --attention-length N, or take decay or conv, "
            "for any length"
        )
    try:
        return cls(**given)
    except ValueError as error:
        raise refused(error, wanted) from None


def _given(wanted: Attending) -> dict[str, Any]:
    return {k: v for k, v in vars(wanted).items() if v is not None and k not in ELSEWHERE}


def refused(error: ValueError, wanted: Attending) -> Usage:
    """What a kernel or a model refuses, the choices that were given named by their flags."""
    said = str(error)
    for key, value in _given(wanted).items():
        said = re.sub(rf"\b{key} {re.escape(str(value))}\b", f"{flag(key)} {value}", said)
    return Usage(said)


def check_length(form: Attention, longest: int) -> None:
    """Raises Usage where texts may be longer than the one length that a kernel is built for."""
    if form.length is not None and longest > form.length:
        raise Usage(
            f"texts may have {longest} tokens, which is more than the --attention-length "
            f"{form.length} that --w-o full is built for: give --max-length {form.length}, or take "
            "decay or conv, for any length"
        )


def chosen(model: Any, layers: str | None) -> list[str]:
    """The attention modules of the layers ('3-5', '0,2'), of every stack or of one ('encoder',
    'decoder:0-1'); all without layers.

    Raises Usage for a family that keeps softmax attention, or a layer that is not there.
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
    of = {path: next(int(p) for p in path.split(".") if p.isdigit()) for path in here}
    last, wanted = max(of.values()), set()
    for part in numbers.split(",") if numbers else [f"0-{last}"]:
        first, _, end = part.partition("-")
        low, high = int(first), int(end or first)
        if not low <= high <= last:
            raise Usage(f"--layers {layers} is out of range: the layers of this model are 0-{last}")
        wanted |= set(range(low, high + 1))
    return [path for path in here if of[path] in wanted]


def convertible(model: Any, layers: str | None) -> tuple[list[str], dict[str, str]]:
    """(of the `chosen` modules those that take a kernel, {the others: why they do not}).

    Raises Usage where none does, or one does not whose layer is named by its number."""
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
    form: Attention,
    batches: list[Any],
    measure: Measure,
    budget: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """(a converted copy, its records, what each module costs alone): from the least sensitive on,
    while the measured growth of the loss stays within `budget`; the copy is the very one that did,
    as kernels start from random tensors. Raises Usage where not even one module does."""
    alone, paths = [], list(paths)
    for done, path in enumerate(paths):
        if progress:
            progress(done, len(paths))
        tried = copy.deepcopy(model)
        convert(tried, {path: form}, batches)
        alone.append({"site": path, "increase": measure(tried)})
    alone.sort(key=lambda each: each["increase"])
    best, records, taken = None, [], []
    for each in alone:
        tried = copy.deepcopy(model)
        candidate = [p for p in paths if p in (*taken, each["site"])]
        made = convert(tried, dict.fromkeys(candidate, form), batches)
        each["together"] = measure(tried)
        if not each["together"] <= budget:  # nor NaN
            break
        best, records, taken = tried, made, candidate
    if best is None:
        raise Usage(
            f"no layer stays within --max-loss-increase {budget:g}: the least sensitive, "
            f"{alone[0]['site']}, costs {alone[0]['increase']:.4f}"
        )
    return best, records, alone
