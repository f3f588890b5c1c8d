"""What compress refuses before any weights are loaded: figures that it will not measure, and sites
or budgets that cannot be."""

import copy
import re
from typing import Any

from tlmtool.commands.converting import predicted
from tlmtool.commands.finishing import plain_of
from tlmtool.compression.candidates import Candidates
from tlmtool.compression.compress import check as check_model
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.samples import prompts_of
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.report.checks import checked_figure

QUALITY = re.compile(
    r"loss|perplexity|feature_error|(quality|calibration)\..*"
)  # figures that need a text, and so a tokenizer
CAUSAL = re.compile(r"perplexity|quality\.(perplexity|samples|tokens).*|calibration\.windows?")


def checked(
    recipe: Recipe, empty: Any, tokenizer: Any, weighed: bool, budgeted: bool
) -> Candidates | None:
    """The sites of the budget, if there is one. Raises a Failure for whatever the shapes of the
    model and the data already rule out. This comes before any weights are loaded."""
    named = checked_figure(recipe.output.fail_if)
    objective = objective_of(empty)
    if tokenizer is None and QUALITY.fullmatch(named):
        raise Usage(f"{recipe.model} has no tokenizer, so that {named} is not measured")
    if CAUSAL.fullmatch(named) and objective != "clm":
        raise Usage(f"{recipe.model} is no causal language model: it has no {named}")
    if named == "loss" and objective is None:
        raise Usage(f"{recipe.model} has no language-model head: check its feature_error, not loss")
    if named == "feature_error" and objective:
        raise Usage(f"{recipe.model} has a language-model head: check its loss, not feature_error")
    if recipe.language.prompts and objective != "clm":
        raise Usage(f"{recipe.model} is no causal language model: leave out --prompts")
    prompts_of(recipe.language.prompts)
    if recipe.attention.kind:
        empty = copy.deepcopy(empty)
        predicted(recipe, empty, [])
    bits = recipe.quantization.bits
    sites = check_model(empty, recipe.compression, weighed, bits) if budgeted else None
    plain_of(recipe, empty, sites)
    return sites


def tokenizer_of(recipe: Recipe, folder: Folder) -> Any:
    """The tokenizer of the folder, or None; without one a calibration text is refused."""
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is None and recipe.calibration.text not in (None, "none"):
        raise NotLoadable(
            f"{recipe.model} has no tokenizer, so --calibration {recipe.calibration.text} cannot "
            "be read; add the tokenizer's files or give --calibration none"
        )
    return tokenizer
