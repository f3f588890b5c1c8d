"""The part of compress that changes attention: which layers, their conversion, its report."""

from typing import Any

from tlmtool.attention import Attention
from tlmtool.commands.run import Run
from tlmtool.compression.calibration import prepared
from tlmtool.compression.choosing import (
    affordable,
    check_length,
    convertible,
    kernel_of,
    refused,
)
from tlmtool.compression.compress import TOKENS
from tlmtool.compression.conversion import convert
from tlmtool.data.batching import Batch
from tlmtool.data.windows import Windows
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.comparison import Quality
from tlmtool.measuring.outputs import position_limit
from tlmtool.models.attending import attend
from tlmtool.models.kernels import switched_off
from tlmtool.models.modeling import adopt
from tlmtool.recipe.building import Recipe
from tlmtool.report.building import built
from tlmtool.report.layout import Part
from tlmtool.report.parts.attention import Attention as Converted
from tlmtool.report.parts.ending import Predicted


def converted(
    run: Run,
    model: Any,
    tokenizer: Any,
    texts: list[str] | Windows,
    before: Any,
    warnings: list[str],
) -> tuple[Any, Converted]:
    """(the model with its attention converted, the part `attention` of a report). `before`: the
    `Comparison` that has measured the model.

    Where layers are chosen by loss, the model is a copy. What could not be done as it was asked
    for is added to the warnings."""
    recipe, budget = run.recipe, run.recipe.compression.max_loss_increase
    kernel, paths = _asked(recipe, model, warnings)
    quality = before and before.quality
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which converting its attention needs")
    batches: list[Batch] = []
    if texts:
        batches = prepared(model, tokenizer, texts, recipe.calibration.max_length, TOKENS)
    else:
        warnings.append("without calibration text nothing is fitted: kernels are as they start")
    found: dict[str, Any] = {}
    try:
        if budget is not None:
            with run.stage("choose layers"):
                bar = run.bars.of("choosing layers")
                given = (kernel, batches, _increase(quality), budget, bar)
                model, found["layers"], found["alone"] = affordable(model, paths, *given)
        else:
            with run.stage("convert"):
                plan = dict.fromkeys(paths, kernel)
                found["layers"] = convert(model, plan, batches, run.bars.of("converting"))
    except Usage:
        raise
    except ValueError as error:
        raise refused(error, recipe.attention) from None
    adopt(model)
    with run.stage("measure"):
        found["quality"] = quality.compared(model).after
        with switched_off(model):
            found["off"] = quality.compared(model).after
    return model, built(Converted, found)


def predicted(recipe: Recipe, empty: Any, warnings: list[str]) -> list[Part]:
    """Convert a model on the meta device; the parts of a report that say so."""
    budget = recipe.compression.max_loss_increase
    kernel, paths = _asked(recipe, empty, warnings)
    try:
        attend(empty, dict.fromkeys(paths, kernel))
    except ValueError as error:
        raise refused(error, recipe.attention) from None
    known = {"attention": kernel.to_dict(), "output_error": None}
    layers = [{"site": path, **known} for path in paths]
    found = built(Converted, {"layers": layers})
    if budget is None:
        return [Predicted(predicted=True), found]
    warnings.append(
        f"--max-loss-increase {budget:g} may convert fewer than these "
        f"{len(paths)} layers: only the run itself measures how many"
    )
    condition = f"if all {len(paths)} layers take it"
    return [Predicted(predicted=True, predicted_if=condition), found]


def longest_of(recipe: Recipe) -> int | None:
    """The one length that the chosen kernel is made for, if there is one."""
    return kernel_of(recipe.attention).length if recipe.attention.kind else None


def _asked(recipe: Recipe, model: Any, warnings: list[str]) -> tuple[Attention, list[str]]:
    """The chosen kernel, and the attention modules that get it."""
    kernel, longest = kernel_of(recipe.attention), recipe.calibration.max_length
    paths, left = convertible(model, recipe.attention.layers)
    check_length(recipe.attention, min(longest, position_limit(model) or longest))
    warnings += [f"left as it is: {path} {why}" for path, why in left.items()]
    return kernel, paths


def _increase(quality: Quality) -> Any:
    """A function of a model: how far its loss has risen, in nats. A model without a loss has its
    feature error instead, which is 0 before."""

    def measure(model: Any) -> float:
        found = quality.compared(model)
        return found.after - (found.before or 0.0)

    return measure
