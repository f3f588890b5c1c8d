"""The part of compress that changes attention: which layers, their conversion, its report."""

from typing import Any

from tlmtool.bookkeeping import Run
from tlmtool.compression.calibration import prepared
from tlmtool.compression.choosing import affordable, chosen, kernel_of
from tlmtool.compression.compress import TOKENS
from tlmtool.compression.conversion import convert
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.comparison import Quality
from tlmtool.models.attending import attend
from tlmtool.models.modeling import adopt
from tlmtool.recipe import Recipe


def converted(
    run: Run, model: Any, tokenizer: Any, texts: list[str], quality: Quality | None
) -> dict[str, Any]:
    """Convert the attention of a model in place; the part `attention` of a report."""
    recipe, wanted = run.recipe, run.recipe.attention
    form, paths = kernel_of(wanted), chosen(model, wanted.layers)
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which converting its attention needs")
    batches = prepared(model, tokenizer, texts, recipe.calibration.max_length, TOKENS)
    found: dict[str, Any] = {}
    try:
        if wanted.max_loss_increase is not None:
            with run.stage("choose layers"):
                bar = run.bars.of("choosing layers")
                budget, measure = wanted.max_loss_increase, _increase(quality)
                paths, found["alone"] = affordable(
                    model, paths, form, batches, measure, budget, bar
                )
        with run.stage("convert"):
            plan = dict.fromkeys(paths, form)
            found["layers"] = convert(model, plan, batches, run.bars.of("converting"))
    except ValueError as error:
        raise Usage(str(error)) from None
    adopt(model)
    with run.stage("measure"):
        found["quality"] = quality.compared(model)["after"]
    return {"attention": found}


def predicted(recipe: Recipe, empty: Any) -> dict[str, Any]:
    """Convert a model on the meta device; the part `attention` of a report."""
    form, paths = kernel_of(recipe.attention), chosen(empty, recipe.attention.layers)
    try:
        attend(empty, dict.fromkeys(paths, form))
    except ValueError as error:
        raise Usage(str(error)) from None
    return {"attention": {"layers": [{"site": p, "attention": form.to_dict()} for p in paths]}}


def _increase(quality: Quality) -> Any:
    """model -> share by which its loss has grown; the feature error of one without a loss."""

    def measure(model: Any) -> float:
        found = quality.compared(model)
        before, after = found["before"], found["after"]
        return (after - before) / before if before else after

    return measure
