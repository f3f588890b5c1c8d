"""`compress --recover`: the compressed model is distilled from the dense one."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tlmtool.data.lessons import BATCH, Lesson
from tlmtool.data.windows import AT_A_STEP, Learned
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.comparison import Quality
from tlmtool.models import checkpoint
from tlmtool.models.kernels import converted, switched_off
from tlmtool.recipe.schema import Recipe, Training
from tlmtool.report.parts.recovery import Course, Point
from tlmtool.report.parts.recovery import Recovery as Recovered
from tlmtool.report.progress import Bars
from tlmtool.training.distilling import Distilled, measure_of
from tlmtool.training.imitation import Imitation
from tlmtool.training.objectives import Objective
from tlmtool.training.teaching import distilled, modules_named

RATES = {"factors": 5e-4, "all": 1e-3}  # the default rate, by what is trained
RATES_WINDOWS = {"factors": 3e-4, "all": 1e-4}  # the same of a causal language model
POINTS = 8  # of the course of the loss in a report


def training_of(recipe: Recipe, window: int | None) -> Recipe:
    """The training that `--recover` asks for, as a recipe of finetune. `window`: tokens of a window
    of a causal language model; None for a model that learns on texts."""
    wanted = recipe.recovery
    train = wanted.train or ("all" if recipe.attention.kind else "factors")
    rates, batch = (RATES_WINDOWS, AT_A_STEP) if window else (RATES, BATCH)
    precision = wanted.precision
    if precision is None and window and fast_bfloat16(checkpoint.device_of(recipe.device)):
        precision = "bfloat16"
    used = Training(
        lr=wanted.lr or rates[train],
        train=train,
        steps=wanted.steps,
        batch=wanted.batch or batch,
        max_length=window or recipe.calibration.max_length,
        schedule=wanted.schedule,
        warmup=wanted.warmup,
        precision="bf16" if precision == "bfloat16" else "no",
        evaluate_every=(wanted.steps or 0) + 1 if window else None,  # it is measured at the end
    )
    common = {"seed": recipe.seed, "device": recipe.device}
    return Recipe("finetune", recipe.model, training=used, recovery=wanted, **common)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 by instructions of its own. Passes take about a third
    of the time there; weights and the state of the optimizer stay in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))


class Recovery:
    """Holds a copy of the dense model, its score, and what to learn on: the texts of a lesson, or
    of a causal language model windows.

    `score` has scored the dense model already. Without it, texts are scored by the feature error,
    and windows by the loss. `quality` is that of the dense model; that of a language model is
    measured again before and after the training. `after` is what was then measured last."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        tokenizer: Any,
        bars: Bars,
        taught: Lesson | None,
        windows: Learned | None = None,
        score: BeforeAfter | None = None,
        quality: Quality | None = None,
    ):
        self.quality, self.after = quality if quality and quality.objective else None, None
        self.bars, self.tokenizer = bars, tokenizer
        self.lesson, self.windows = taught, windows
        self.recipe = training_of(recipe, windows.length if windows else None)
        modules_named(model, recipe.recovery.layers)
        self.teacher = copy.deepcopy(model)
        self.measured: tuple[str, str, Callable[[nn.Module], float] | None]
        if score:
            self.measured = (score.task.metric, score.task.better, score)
            self.dense = score.before
        elif self.windows or self.lesson is None:
            self.measured = ("loss", "lower", None)
            self.dense = self.quality.before.mean
        else:
            length = self.recipe.training.max_length
            self.measured = measure_of(self.lesson, self.teacher, tokenizer, length)
            self.dense = self.measured[2](model)

    @property
    def sentences(self) -> list[str]:
        """The sentences that the model is distilled on; none where it learns on windows."""
        return [] if self.windows or self.lesson is None else self.lesson.sentences

    def recover(self, model: nn.Module) -> Recovered:
        """Train the model in place. Returns the part `recovery` of a report."""
        name, better, score = self.measured
        used = self.recipe.training
        beside = self.quality and self._told("measuring compressed", model)
        compressed = score(model) if score else beside.mean
        started = time.perf_counter()
        outcome = distilled(
            self.recipe,
            model,
            self._objective(model),
            self._source,
            tick=lambda step, of, note: self.bars("recovering", step, of, note),
            tell=self.bars.line,
        )
        seconds = time.perf_counter() - started
        off = self._off(model)  # the last score is that of the model itself
        self.after = self.quality and self._told("measuring recovered", model)
        return Recovered(
            metric=name,
            better=better,
            dense=self.dense,
            compressed=compressed,
            recovered=score(model) if score else self.after.mean,
            steps=used.steps,
            off=off,
            trained=used.train or "factors",
            lr=used.lr,
            precision="bfloat16" if used.precision == "bf16" else "float32",
            sentences=None if self.windows else len(self.sentences),
            windows=len(self.windows.rows) if self.windows else None,
            window=self.windows.length if self.windows else None,
            tokens=sum(outcome.sizes) if self.windows else None,
            seconds=seconds,
            course=tuple(Point(step=k, loss=loss) for k, loss in outcome.course(POINTS)),
            scored_on=self._scored_on,
            data=self._source,
            **self._courses(beside),
        )

    def _off(self, model: nn.Module) -> float | None:
        """The score with all attention kernels switched off; None where there are none."""
        if not any(converted(model)):
            return None
        score = self.measured[2]
        with switched_off(model):
            found: float = score(model) if score else self._told("measuring", model).mean
        return found

    def _objective(self, model: nn.Module) -> Objective:
        """What the compressed model is trained for."""
        wanted, score = self.recipe.recovery, self.measured[2]
        if self.windows:
            weights = (wanted.divergence, wanted.hidden)
            made: Objective = Imitation(model, self.teacher, self.windows.rows, weights=weights)
        else:
            length = self.recipe.training.max_length
            plain = Objective(model, self.tokenizer, self.sentences, None, length)
            made = Distilled(model, self.teacher, plain, score, 2.0, False)
        made.name, made.better = self.measured[:2]
        return made

    @property
    def _source(self) -> str:
        return self.windows.source if self.windows else self.lesson.source

    @property
    def _scored_on(self) -> str:
        if self.measured[2] is None:
            return "the held-out text of the quality"
        kind = "development rows" if self.lesson.task else "texts held out"
        return f"{len(self.lesson.scored or self.lesson.held):,} {kind}"

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
