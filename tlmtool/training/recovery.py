"""`compress --recover`: the compressed model is distilled from the dense one."""

import copy
from typing import Any

from torch import nn

from tlmtool.data.lessons import Lesson
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.comparison import Quality
from tlmtool.recipe.schema import Recipe, Training
from tlmtool.report.parts.recovery import Course
from tlmtool.report.parts.recovery import Recovery as Recovered
from tlmtool.report.progress import Bars
from tlmtool.training import finetune
from tlmtool.training.distilling import Distilled, measure_of
from tlmtool.training.job import Job, freeze
from tlmtool.training.objectives import Objective

RATES = {"factors": 5e-4, "all": 1e-3}  # the default rate, by what is trained


class Recovery:
    """Holds a copy of the dense model, its score, and the sentences to learn on.

    `score` has scored the dense model already; without it, the feature error is measured.
    `quality` is that of the dense model. Of a language model it is measured again before and after
    the training; `after` is then what was measured last."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        tokenizer: Any,
        bars: Bars,
        taught: Lesson,
        score: BeforeAfter | None = None,
        quality: Quality | None = None,
    ):
        self.quality, self.after = quality if quality and quality.objective else None, None
        wanted, length = recipe.recovery, recipe.calibration.max_length
        self.bars, self.tokenizer = bars, tokenizer
        train = wanted.train or ("all" if recipe.attention.kind else "factors")
        settings = {"steps": wanted.steps, "batch": wanted.batch, "max_length": length}
        training = Training(lr=wanted.lr or RATES[train], train=train, **settings)
        common = {"seed": recipe.seed, "device": recipe.device}
        self.recipe = Recipe("finetune", recipe.model, training=training, **common)
        self.lesson, self.teacher = taught, copy.deepcopy(model)
        if score:
            self.measured = (score.task.metric, score.task.better, score)
            self.dense = score.before
        else:
            self.measured = measure_of(self.lesson, self.teacher, tokenizer, length)
            self.dense = self.measured[2](model)

    @property
    def sentences(self) -> list[str]:
        """The sentences that the model is distilled on."""
        return self.lesson.sentences

    def recover(self, model: nn.Module) -> Recovered:
        """Train the model in place. Returns the part `recovery` of a report."""
        name, better, score = self.measured
        length = self.recipe.training.max_length
        plain = Objective(model, self.tokenizer, self.lesson.sentences, None, length)
        objective = Distilled(model, self.teacher, plain, score, 2.0, False)
        objective.name, objective.better = name, better
        held = {p: p.requires_grad for p in model.parameters()}
        job = Job(model, objective, objective.measure, self.lesson.source, tuned=True)
        freeze(self.recipe, job)
        compressed, dtype = score(model), model.dtype
        beside = self.quality and self._told("measuring compressed", model)
        model.float()  # AdamW needs it
        outcome = finetune.train(
            self.recipe,
            job,
            finetune.accelerator_of(self.recipe),
            tick=lambda step, of, note: self.bars("recovering", step, of, note),
            tell=self.bars.line,
        )
        model.to(dtype).eval()
        for parameter, kept in held.items():
            parameter.requires_grad_(kept)
        self.after = self.quality and self._told("measuring recovered", model)
        kind = "development rows" if self.lesson.task else "texts held out"
        return Recovered(
            metric=name,
            better=better,
            dense=self.dense,
            compressed=compressed,
            recovered=score(model),
            steps=outcome.steps,
            trained=self.recipe.training.train or "factors",
            lr=self.recipe.training.lr,
            sentences=len(self.lesson.sentences),
            scored_on=f"{len(self.lesson.scored or self.lesson.held):,} {kind}",
            data=self.lesson.source,
            **self._courses(beside),
        )

    def _told(self, stage: str, model: nn.Module) -> Any:
        self.quality.progress = self.bars.of(stage)
        return self.quality.measured(model)

    def _courses(self, compressed: Any) -> dict[str, Course]:
        """The loss of a language model, and the perplexity of a causal one."""
        if self.quality is None:
            return {}
        measured = (self.quality.before, compressed, self.after)
        found = {"loss": Course(*(each.mean for each in measured))}
        if self.quality.objective == "clm":
            found["perplexity"] = Course(*(each.perplexity for each in measured))
        return found
