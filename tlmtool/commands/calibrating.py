"""Which text calibrates a compression, and which text after it measures the result."""

from dataclasses import dataclass, field, replace
from typing import Any

from tlmtool.commands.converting import longest_of
from tlmtool.data import reading
from tlmtool.data.batching import cut
from tlmtool.data.language import SHIPPED, held_out, joined_split
from tlmtool.data.lessons import Lesson, joined_lesson
from tlmtool.data.windows import Learned, Windows, windows
from tlmtool.measuring.inputs import oddities
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.perplexity import context_of
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.compression import Calibration as Settings
from tlmtool.report.parts.calibration import Calibration

TEXT, WINDOW = 128, 512  # tokens of a text, and of a window of joined text; longer ones take more
# memory, and show a model more of what long texts do to its inputs
ENOUGH = 16_384  # tokens; a language model that is calibrated on fewer loses visibly more


@dataclass
class Material:
    """The text that calibrates a model, as texts or as windows of tokens, and text held out of it.
    `part` says so in the report. `learned`: windows that a recovery trains on."""

    texts: list[str] | Windows = field(default_factory=list)
    held: list[str] | str = field(default_factory=list)
    part: Calibration = field(default_factory=Calibration)
    warnings: list[str] = field(default_factory=list)
    learned: Learned | None = None


def resolved(recipe: Recipe, model: Any) -> Recipe:
    """The recipe with the length of the texts or windows, whose default depends on the model."""
    if recipe.calibration.max_length is not None:
        return recipe
    length = TEXT
    if objective_of(model) == "clm":
        length = min(filter(None, [WINDOW, context_of(model), longest_of(recipe)]))
    return replace(recipe, calibration=replace(recipe.calibration, max_length=length))


def material_of(recipe: Recipe, model: Any, tokenizer: Any, taught: Lesson | None) -> Material:
    """What `--calibration` names; without it `--recover-data`, or the texts of `--data` that are
    not scored, or else the text of the package. A causal language model reads it joined, in
    windows; other models read it text by text."""
    own = taught if recipe.calibration.text is None and taught and taught.sentences else None
    if objective_of(model) == "clm":
        return _joined(recipe, model, tokenizer, own)
    wanted = recipe.calibration
    shipped = held_out(reading.texts(None, None, recipe.seed))
    if wanted.text == "none":
        return Material([], shipped[1], _unweighed())
    if own:
        rest, held = own.sentences, own.measured()
    else:
        rest, held = held_out(reading.texts(wanted.text, None, recipe.seed))
    used = reading.choose(rest, wanted.samples, recipe.seed)
    source = wanted.text or (own.source if own else SHIPPED)
    other = None if held else SHIPPED  # all of its texts are needed to calibrate
    found = Calibration(source=source, texts=len(used), measured_on=other)
    unread = _unread("tokens", wanted.tokens, "texts, as --calibration-samples says")
    return Material(used, held or shipped[1], found, unread)


def _joined(recipe: Recipe, model: Any, tokenizer: Any, own: Lesson | None) -> Material:
    """The same for a causal language model: windows of joined text, and the text after them."""
    wanted, shipped = recipe.calibration, joined_split(None)
    if wanted.text == "none":
        return Material([], shipped.held, replace(_unweighed(), held_out=shipped.where))
    given = wanted.text or recipe.recovery.text
    found = joined_split(given) if given else shipped
    if own and not given:
        found = joined_lesson(own, recipe.recovery.data)
    length = min(wanted.max_length, context_of(model) or wanted.max_length, wanted.tokens)
    cut = windows(tokenizer, found.rest, length, wanted.tokens)
    rows = cut["input_ids"]
    tokens = sum(map(len, rows))
    warnings = _unread("samples", wanted.samples, "windows, as --calibration-tokens says")
    if tokens + length <= min(wanted.tokens, ENOUGH):  # the text has no window more
        warnings.append(
            f"{found.source} gives {tokens:,} tokens to calibrate on, which is little for a "
            f"language model: --calibration FILE takes a text with {wanted.tokens:,} or more"
        )
    told = Calibration(
        source=found.source,
        windows=len(rows),
        window=length,
        held_out=found.where or shipped.where,
        measured_on=None if found.held else SHIPPED,
    )
    return Material(cut, found.held or shipped.held, told, warnings)


def shortened(
    recipe: Recipe, model: Any, tokenizer: Any, material: Material, learnt: list[str]
) -> list[str]:
    """Warnings of texts that are too long to be read whole, of those that calibrate and of those
    that the recovery learns from. Windows of tokens never are."""
    longest = recipe.calibration.max_length or TEXT
    limit = min(longest, position_limit(model) or longest)
    texts = material.texts if isinstance(material.texts, list) else []
    found = cut(tokenizer, texts, limit, "calibration texts")
    found += oddities(model, tokenizer) if tokenizer else []
    return found + (cut(tokenizer, learnt, limit, "texts of --recover") if learnt else [])


def _unread(key: str, value: int, reads: str) -> list[str]:
    """A warning where a setting was given that this kind of model does not read."""
    usual = getattr(Settings(), key)
    return [f"--calibration-{key} is not read: this model reads {reads}"] if value != usual else []


def _unweighed() -> Calibration:
    return Calibration(source="none: the weights alone decide")
