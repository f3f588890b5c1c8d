"""A study: several arms and seeds on one task with equal total steps, and paired differences."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Literal

from pydantic import Field

from tlmtool.failure import Failure, NotLoadable, Usage
from tlmtool.files import kept
from tlmtool.files.kept import Kept
from tlmtool.files.writing import write_whole
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.report.building import built
from tlmtool.report.layout import plain
from tlmtool.report.parts.study import ArmCost, Cost
from tlmtool.report.parts.study import Result as Trained
from tlmtool.report.parts.study import Study as Compared
from tlmtool.training import finetune
from tlmtool.training.expansion import lifted
from tlmtool.training.job import Job
from tlmtool.training.jobs import prepare
from tlmtool.training.outcome import Outcome
from tlmtool.training.verdicts import compared, spread

NEVER = 2**31  # steps between evaluations, so that the development split is scored at the end alone
NEEDS = {"dense-matched": "mpo-dynamic", "frozen": "mpo-dynamic"}  # {arm: the arm it takes from}
STRATEGIES = {"mpo-static": "static", "mpo-dynamic": "dynamic", "svd": "dynamic"}  # default: none

Result = dict[str, Any]  # of one arm and seed


class _Expanded(Kept):
    site: str


class _Result(Kept):
    """What is read from the file of a result."""

    score: float
    better: Literal["higher", "lower"]
    metric: str
    lr: float = Field(gt=0)
    steps: int = Field(ge=1)
    chosen: list[str] = Field(default_factory=list)
    step_ratio: float = Field(1.0, gt=0)
    selections: list[dict[str, Any]] = Field(default_factory=list)
    expansions: list[_Expanded] = Field(default_factory=list)
    warnings: list[str]


Load = Callable[..., Any]


class Study:
    """Trains the arms of a recipe. Each result is a file in `folder`, so that a killed study goes
    on. `load`, `tokenizer` and `source` are those of `prepare`."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        load: Load,
        tokenizer: Any,
        source: Folder | None,
        tell: Callable,
        bar: Callable,
    ):
        self.recipe, self.folder, self.load = recipe, folder, load
        self.tokenizer, self.source, self.tell, self.bar = tokenizer, source, tell, bar
        self.first = recipe.seed
        self.accelerator = finetune.accelerator_of(recipe)

    def cost(self) -> Cost:
        """What each arm is predicted to cost, once all that it may expand is expanded. Raises
        whatever an arm would, before any is trained."""
        wanted, rows = self.recipe.study, []
        dense = self._recipe("dense", self.first, self.recipe.training)
        job = prepare(dense, self.load, self.tokenizer, self.source)
        held = {each.site for each in lifted(job.model)}
        needed = [NEEDS[arm] for arm in wanted.arms if arm in NEEDS]
        runs = dict.fromkeys([*wanted.arms, *needed], wanted.seeds)
        if len(wanted.lr_grid) > 1:
            runs = {"rates (dense)": len(wanted.lr_grid)} | runs
        for name, count in runs.items():
            recipe = self._recipe(name, self.first, self.recipe.training)
            step, _ = finetune.forecast(recipe, job, held)
            one = step.step_flops.after
            flops = count * (step.steps or 0) * one
            rows.append(ArmCost(arm=name, runs=count, step_flops=one, flops=flops))
        return Cost(
            runs=sum(runs.values()),
            steps=step.steps or 0,
            flops=sum(row.flops for row in rows),
            rows=tuple(rows),
            note=f"each: {step.note}; training steps alone, selections and evaluations not "
            "counted; as if all that an arm may expand were expanded from the first step on, and "
            "rates were tried on all of train, of which a tenth is set aside",
        )

    def compare(self, mark: str) -> Compared:
        """How the arms compare. `mark`: the mark of this study. It is kept with each result, so
        that a result of another study is not taken for one of this."""
        self.mark = mark
        wanted = self.recipe.study
        rates = [self._rate(lr) for lr in wanted.lr_grid] if len(wanted.lr_grid) > 1 else []
        better = max if self._higher(rates) else min
        lr = better(rates, key=lambda r: r["score"])["lr"] if rates else None
        self.lr = lr or (wanted.lr_grid or (self.recipe.training.lr,))[0]
        results = []
        arms = sorted(wanted.arms, key=lambda arm: arm in NEEDS)  # what others need comes first
        for seed in range(self.first, self.first + wanted.seeds):
            for arm in arms:
                results.append(self._one(arm, seed))
        found = {arm: [r["score"] for r in results if r["arm"] == arm] for arm in wanted.arms}
        data = {
            "lr": self.lr,
            "rates": rates,
            "results": results,
            "arms": [{"arm": arm, **spread(scores)} for arm, scores in found.items()],
            "pairs": compared(found),
        }
        return built(Compared, data)

    def _higher(self, results: list[Result]) -> bool:
        return all(result["better"] == "higher" for result in results)

    def _rate(self, lr: float) -> Result:
        """Dense training at a rate with the first seed, scored on a tenth of train, set aside."""
        training = replace(self.recipe.training, lr=lr, keep_best=True)
        recipe = self._recipe("dense", self.first, replace(training, evaluate_every=None))
        return self._kept(
            f"rate-{lr:g}", recipe, lambda job: job.objective.measure(job.model)["score"], lr=lr
        )

    def _one(self, arm: str, seed: int) -> Result:
        """One arm at one seed, scored on the development split at the end."""
        other = NEEDS.get(arm)
        training = replace(self.recipe.training, lr=self.lr)
        needed = self._one(other, seed) if other else None
        if needed and "chosen" not in needed:
            raise Usage(
                f"{arm} follows {other}, which expanded nothing in {needed['steps']} steps: lower "
                "--every"
            )
        if arm == "dense-matched":
            training = replace(training, lr=self.lr * needed["step_ratio"])
        frozen = needed["chosen"] if arm == "frozen" else []
        recipe = self._recipe(arm, seed, training)
        return self._kept(f"{arm}-seed{seed}", recipe, None, frozen, arm=arm, seed=seed)

    def _recipe(self, arm: str, seed: int, training: Any) -> Recipe:
        """The recipe of one training; its strategy and decomposition follow from the arm alone."""
        training = replace(training, evaluate_every=training.evaluate_every or NEVER, resume=False)
        method = "svd" if arm == "svd" else "mpo"
        strategy = replace(self.recipe.strategy, name=STRATEGIES.get(arm, "none"), method=method)
        return replace(self.recipe, seed=seed, training=training, strategy=strategy)

    def _kept(
        self, name: str, recipe: Recipe, score: Any, frozen: list[str] = (), **labels: Any
    ) -> Result:
        """The result of a file, or of a training that writes the file."""
        file = self.folder / f"{name}.json"
        if file.exists():
            return self._read(file, labels | {"lr": recipe.training.lr})
        self.tell(f"study: {name}")
        job = prepare(recipe, self.load, self.tokenizer, self.source)
        _freeze(job, frozen)
        outcome = finetune.train(recipe, job, self.accelerator, tick=self.bar, tell=self.tell)
        finetune.finish(recipe, job.model, outcome.expansions)
        scores = {"score": score(job)} if score else job.dev(job.model)
        scores.pop("examples", None)  # arms are compared over seeds
        watched = (job.objective.name, job.objective.better)
        name_of, better = watched if score else job.final
        result = {**labels, "of": self.mark, "better": better, "metric": name_of, **scores}
        result |= {"lr": recipe.training.lr, "steps": outcome.steps, **_expanded(job, outcome)}
        result["warnings"] = finetune.warnings_of(recipe, job, outcome)
        if not math.isfinite(result["score"]):
            raise Failure(f"the score of {name} is {result['score']}")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(result, indent=1) + "\n")
        self.tell(f"study: {name} {result['metric']} {result['score']:.4f}")
        return result

    def _read(self, file: Path, wanted: dict[str, Any]) -> Result:
        """The result in a file. Raises NotLoadable for one of another study, arm or rate."""
        found = kept.read(file, _Result, "is not a result of a study", "remove it")
        wanted |= {"of": self.mark}
        if other := next((key for key in wanted if found.get(key) != wanted[key]), None):
            raise NotLoadable(
                f"{file} is of another study, as its key {other!r} differs: remove it"
            )
        try:
            built(Trained, found)
        except ValueError as error:
            raise NotLoadable(f"{file} is not a result of a study ({error}): remove it") from None
        return found


def _freeze(job: Job, names: list[str]) -> None:
    """Do not train the weights of these sites. Raises NotLoadable for a name that is no layer."""
    for site in names:
        try:
            job.model.base_model.get_submodule(site).weight.requires_grad_(False)
        except AttributeError:
            raise NotLoadable(
                f"a result of the study chose {site[:80]!r}, which is no layer of this model: "
                "remove it"
            ) from None


def _expanded(job: Job, outcome: Outcome) -> dict[str, Any]:
    """What an arm over-parameterized: which sites, when, how large, and how far each core moved."""
    found = outcome.expansions
    if not found:
        return {}
    ratio = geometric_mean([each.ratio for each in found])
    kept = {"chosen": [each.site for each in found], "step_ratio": ratio}
    made = plain(finetune.expansions_of(job, outcome))
    return kept | {"selections": outcome.selections, "expansions": made}
