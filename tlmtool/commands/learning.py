"""Which text a causal language model is trained on after a compression. It is never scored."""

from typing import Any

from tlmtool.commands.calibrating import Material
from tlmtool.commands.run import Run
from tlmtool.data.language import joined_split
from tlmtool.data.lessons import Lesson, joined_lesson, texts_of
from tlmtool.data.reading import joined
from tlmtool.data.windows import AT_A_STEP, LEARNED, Learned, to_learn, without
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.perplexity import context_of
from tlmtool.recipe.building import Recipe

OFTEN = 2  # times that a token is seen on average; from then on a warning says so
ALONE = ("text", "window", "divergence", "hidden")  # settings of causal language models


def check_recovery(recipe: Recipe, causal: bool) -> None:
    """Raises Usage for a recovery that does not fit the kind of the model."""
    given, usual = recipe.recovery, type(recipe.recovery)()
    if given.steps is None or causal:
        return
    names = {"text": "--recover-data", "window": "--recover-window"}
    for name in ALONE:
        if getattr(given, name) != getattr(usual, name):
            raise Usage(
                f"{names.get(name, f'recovery.{name}')} is for causal language models, and "
                f"{recipe.model} is none: it learns on --data"
            )


def windows_of(
    run: Run, model: Any, tokenizer: Any, taught: Lesson | None, material: Material
) -> Learned | None:
    """The windows that `--recover` trains a causal language model on, for as many tokens as its
    steps read; None without it, and for another model.

    The text is that of `--recover-data`, or of `--data`, or of `--calibration`, or the one that
    comes with tlm, without what is held out of it and without the rows that are scored."""
    recipe = run.recipe
    if recipe.recovery.steps is None or objective_of(model) != "clm":
        return None
    if tokenizer is None:
        raise NotLoadable(f"{recipe.model} has no tokenizer, which --recover needs")
    given, calibration = recipe.recovery, recipe.calibration.text
    length = given.window or min(filter(None, [LEARNED, context_of(model)]))
    most = position_limit(model)
    if most is not None and length > most:
        raise Usage(
            f"--recover-window is {length}; {recipe.model} reads at most {most} tokens at once"
        )
    if given.text is not None:
        text, source = joined(given.text), given.text
    elif taught and taught.sentences:
        text, source = joined_lesson(taught, given.data).rest, taught.source
    else:
        split = joined_split(None if calibration == "none" else calibration)
        text, source = split.rest, split.source
    held = material.held if isinstance(material.held, str) else "\n".join(material.held)
    text = without(text, held, texts_of(taught.scored) if taught else [])
    tokens = recipe.recovery.steps * (given.batch or AT_A_STEP) * length
    found = to_learn(tokenizer, text, length, tokens, source)
    seen = tokens / (len(found.rows) * length)
    if seen >= OFTEN:
        there = f"{len(found.rows) * length:,}"
        run.warn(
            f"{source} gives {there} tokens to train on, each of which is seen {seen:.0f} times: "
            "--recover-data FILE takes a longer text"
        )
    return found
