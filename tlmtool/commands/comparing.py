"""A model before and after a command: its quality, its samples, and what is alarming in them."""

from dataclasses import replace
from typing import Any

from tlmtool.commands.calibrating import TEXT, Material
from tlmtool.commands.run import Run
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.comparison import Quality
from tlmtool.measuring.rises import alarms, doubts
from tlmtool.measuring.samples import Samples
from tlmtool.report.layout import Part
from tlmtool.report.parts.quality import Quality as Measured
from tlmtool.report.parts.score import Score


class Comparison:
    """The quality of a model before a change, measured when this is made, and later that after it.

    Of a causal language model there are samples too. `held`: the text to measure on, as `Quality`
    takes it; `stage`: whose seconds these are; `new`: the weights before are random, so that they
    are not measured.
    """

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: Any,
        held: list[str] | str,
        length: int,
        stage: str = "measure",
        new: bool = False,
    ):
        self.run, self.stage, seed = run, stage, run.recipe.seed
        with run.stage(stage):
            bar = run.bars.of("measuring before")
            self.quality = Quality(model, tokenizer, held, length, seed, bar, new)
            self.samples: Samples | None = None
            if self.quality.objective == "clm":
                self.samples = Samples(model, tokenizer, run.recipe.language.prompts, new)

    def after(self, model: Any, known: Any = None) -> tuple[Measured, list[str]]:
        """(the quality before and now, with its alarms; warnings of what makes it doubtful).
        `known`: as `Quality.compared` takes it."""
        with self.run.stage(self.stage):
            self.quality.progress = self.run.bars.of("measuring after")
            found = self.quality.compared(model, known)
            if self.samples:
                found = replace(found, samples=self.samples.compared(model))
        return replace(found, alarms=alarms(found) or None), doubts(found)

    def told(
        self, model: Any, parts: list[Part], warnings: list[str], known: Any = None
    ) -> list[str]:
        """The warnings, with its alarms before them and its doubts after them. The quality is added
        to the parts of a report."""
        measured, uncertain = self.after(model, known)
        parts.append(measured)
        return [*(measured.alarms or ()), *warnings, *uncertain]


def measured_before(run: Run, model: Any, tokenizer: Any, material: Material) -> Comparison | None:
    """The quality of the dense model, on the text that is held out; None without a tokenizer."""
    if tokenizer is None:
        return None
    length = run.recipe.calibration.max_length or TEXT
    return Comparison(run, model, tokenizer, material.held, length)


def first_score(run: Run, score: BeforeAfter, model: Any) -> list[Any]:
    """The score of the dense model."""
    with run.stage("measure"):
        return score.first(model)


def compared(
    run: Run,
    model: Any,
    before: Comparison | None,
    score: BeforeAfter | None,
    trained: Any,
    warnings: list[str],
) -> tuple[list[Part], list[str]]:
    """(the parts of a report on the quality and the score after, all warnings). `trained`: the
    recovery that has measured the model as it is now; None where it was not, or was rounded since.
    """
    measured = list[Part]()
    if before:
        before.run = run  # it may be of an earlier compression
        warnings = before.told(model, measured, warnings, trained and trained.after)
    if score:
        measured.append(_scored(run, score, model, trained=trained is not None))
        warnings += [each for each in score.warnings if each not in run.warnings]
    return measured, warnings


def _scored(run: Run, score: BeforeAfter, model: Any, trained: bool) -> Score:
    """The score before and after; a recovery has scored what it trained."""
    with run.stage("measure"):
        if not trained:
            score(model)
        return score.compared()
