"""A model before and after a command: its quality, its samples, and what is alarming in them."""

from dataclasses import replace
from typing import Any

from tlmtool.commands.run import Run
from tlmtool.measuring.comparison import Quality
from tlmtool.measuring.rises import alarms, doubts
from tlmtool.measuring.samples import Samples
from tlmtool.report.layout import Part
from tlmtool.report.parts.quality import Quality as Measured


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
