"""`compress --recover`: the compressed model is distilled from the dense one."""

import copy
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tlmtool.data.lessons import BATCH, Lesson
from tlmtool.data.windows import AT_A_STEP, Learned
from tlmtool.failure import Usage
from tlmtool.measuring.before_after import BeforeAfter
from tlmtool.measuring.comparison import Quality
from tlmtool.models import checkpoint
from tlmtool.recipe.schema import Recipe, Training
from tlmtool.report.parts.recovery import Course, Point
from tlmtool.report.parts.recovery import Recovery as Recovered
from tlmtool.report.progress import Bars
from tlmtool.training import finetune
from tlmtool.training.distilling import Distilled, measure_of
from tlmtool.training.imitation import Imitation
from tlmtool.training.job import Job, freeze
from tlmtool.training.objectives import Objective
from tlmtool.training.outcome import Outcome

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


def modules_named(model: nn.Module, patterns: Iterable[str]) -> list[nn.Module]:
    """The modules that patterns of names choose, as sites are named. Raises Usage for a pattern
    that chooses none."""
    there, found = [*model.base_model.named_modules()], list[nn.Module]()
    for pattern in patterns:
        chosen = [module for name, module in there if fnmatchcase(name, pattern)]
        if not chosen:
            raise Usage(f"recovery.layers names {pattern}, which is no module of this model")
        found += chosen
    return found


def distilled(
    recipe: Recipe, model: nn.Module, objective: Objective, source: str, **shown: Any
) -> Outcome:
    """Train a model in place by the recipe of `training_of`. The numbers of its weights are of the
    same type afterwards. `shown`: `tick` and `tell` of `Trainer`."""
    held = {p: p.requires_grad for p in model.parameters()}
    job = Job(model, objective, objective.measure, source, tuned=True)
    freeze(recipe, job)
    if patterns := recipe.recovery.layers:
        chosen = {id(p) for m in modules_named(model, patterns) for p in m.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(id(parameter) in chosen)
        if not any(p.requires_grad for p in trained):
            what = recipe.training.train
            raise Usage(f"recovery.layers names no module with weights to train ({what})")
    dtype = model.dtype
    model.float()  # AdamW needs it
    outcome = finetune.train(recipe, job, finetune.accelerator_of(recipe), **shown)
    model.to(dtype).eval()
    for parameter, kept in held.items():
        parameter.requires_grad_(kept)
    return outcome


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
        objective, used = self._objective(model), self.recipe.training
        objective.name, objective.better = name, better
        beside = self.quality and self._told("measuring compressed", model)
        compressed = score(model) if score else beside.mean
        started = time.perf_counter()
        outcome = distilled(
            self.recipe,
            model,
            objective,
            self._source,
            tick=lambda step, of, note: self.bars("recovering", step, of, note),
            tell=self.bars.line,
        )
        seconds = time.perf_counter() - started
        self.after = self.quality and self._told("measuring recovered", model)
        tokens = sum(outcome.sizes) if self.windows else None
        return Recovered(
            metric=name,
            better=better,
            dense=self.dense,
            compressed=compressed,
            recovered=score(model) if score else self.after.mean,
            steps=outcome.steps,
            trained=used.train or "factors",
            lr=used.lr,
            precision="bfloat16" if used.precision == "bf16" else "float32",
            sentences=None if self.windows else len(self.sentences),
            windows=len(self.windows.rows) if self.windows else None,
            window=self.windows.length if self.windows else None,
            tokens=tokens,
            seconds=seconds,
            course=tuple(Point(step=k, loss=loss) for k, loss in outcome.course(POINTS)),
            scored_on=self._scored_on,
            data=self._source,
            **self._courses(beside),
        )

    def _objective(self, model: nn.Module) -> Objective:
        """What the compressed model is trained for."""
        wanted, score = self.recipe.recovery, self.measured[2]
        if self.windows:
            weights = (wanted.divergence, wanted.hidden)
            return Imitation(model, self.teacher, self.windows.rows, weights=weights)
        length = self.recipe.training.max_length
        plain = Objective(model, self.tokenizer, self.sentences, None, length)
        return Distilled(model, self.teacher, plain, score, 2.0, False)

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
