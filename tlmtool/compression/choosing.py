"""Which attention modules become kernels: named layers, or as many as a loss allows."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from tlmtool.attention import Attention, named
from tlmtool.compression.conversion import convert
from tlmtool.failure import Usage
from tlmtool.models.attending import attention_sites
from tlmtool.schema_attention import Attending

Measure = Callable[[Any], float]  # model -> by what share its loss has grown


def kernel_of(wanted: Attending) -> Attention:
    """The kernel of a recipe. Raises Usage for a choice that it does not have, or cannot make."""
    cls = named(wanted.kind)
    known = {field.name for field in fields(cls)}
    elsewhere = ("kind", "layers", "max_loss_increase")
    given = {k: v for k, v in vars(wanted).items() if v is not None and k not in elsewhere}
    if foreign := sorted(set(given) - known):
        raise Usage(
            f"{wanted.kind} attention has no {foreign[0]}: it has {', '.join(sorted(known))}"
        )
    try:
        return cls(**given)
    except ValueError as error:
        raise Usage(str(error)) from None


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


def affordable(
    model: Any,
    paths: Iterable[str],
    form: Attention,
    batches: list[Any],
    measure: Measure,
    budget: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[str], list[dict[str, Any]]]:
    """(modules to convert, what each costs alone): from the least sensitive on, while the measured
    growth of the loss stays within `budget`. Raises Usage where not even one does."""
    alone, paths = [], list(paths)
    for done, path in enumerate(paths):
        if progress:
            progress(done, len(paths))
        tried = copy.deepcopy(model)
        convert(tried, {path: form}, batches)
        alone.append({"site": path, "increase": measure(tried)})
    alone.sort(key=lambda each: each["increase"])
    taken: list[str] = []
    for each in alone:
        tried = copy.deepcopy(model)
        candidate = [p for p in paths if p in (*taken, each["site"])]
        convert(tried, dict.fromkeys(candidate, form), batches)
        each["together"] = measure(tried)
        if each["together"] > budget:
            break
        taken = candidate
    if not taken:
        raise Usage(
            f"no layer stays within --max-loss-increase {budget:g}: the least sensitive, "
            f"{alone[0]['site']}, costs {alone[0]['increase']:.4f}"
        )
    return taken, alone
