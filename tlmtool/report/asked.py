"""What a run was asked for: the questions that decide which figures its report will have.

The parts of a report name these questions in `when`, `count` and `names`. The first line of each
docstring is shown in docs/report.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlmtool.report.timed import SECONDS
from tlmtool.tasks.table import TASKS, Task

BUDGETS = ("rank", "keep", "energy", "target_size", "target_parameters")  # for layers


def condition(questions: str) -> list[str]:
    """What these questions ask for, in words: ['with `--attention`, without `--dry-run`']."""
    told = (str(getattr(Asked, each).__doc__) for each in questions.split())
    return [", ".join(told)] if questions else []


@dataclass(frozen=True)
class Asked:
    """A verb and the values of its recipe, {path: value}, before anything is run."""

    verb: str
    values: Mapping[str, Any]

    def holds(self, questions: str) -> bool:
        """Whether all of these questions, such as 'written budget', are answered with yes."""
        return all(getattr(self, each) for each in questions.split())

    @property
    def written(self) -> bool:
        """without `--dry-run`"""
        return not self.values.get("output.dry_run")

    @property
    def predicted(self) -> bool:
        """with `--dry-run`"""
        return not self.written

    @property
    def single(self) -> bool:
        """without `--seeds`"""
        return self.values.get("study.seeds") is None

    @property
    def study(self) -> bool:
        """with `--seeds`"""
        return not self.single

    @property
    def budget(self) -> bool:
        """with a budget for layers, such as `--keep`"""
        return self.tried or any(self.values.get(f"compression.{name}") for name in BUDGETS)

    @property
    def tried(self) -> bool:
        """with several shares in `--keep`, or with `--max-loss-increase` and no `--attention`"""
        bound = bool(self.values.get("compression.max_loss_increase")) and not self.converts
        return bound or isinstance(self.values.get("compression.keep"), tuple)

    @property
    def shrinks(self) -> bool:
        """for `compress` with a budget for layers"""
        return self.verb == "compress" and self.budget

    @property
    def grows(self) -> bool:
        """for `overparam`"""
        return self.verb == "overparam"

    @property
    def sized(self) -> bool:
        """for `overparam`, and for `compress` with a budget for layers"""
        return self.grows or self.shrinks

    @property
    def counted(self) -> bool:
        """but not with both `--energy` and `--dry-run`"""
        return self.written or not self.values.get("compression.energy")

    @property
    def unknown(self) -> bool:
        """with `--energy`"""
        return bool(self.values.get("compression.energy"))

    @property
    def ranged(self) -> bool:
        """with `--dry-run`, and a budget other than `--rank`"""
        return self.predicted and self.budget and not self.values.get("compression.rank")

    @property
    def timed(self) -> bool:
        """with a budget for layers, without `--attention`"""
        return self.budget and not self.converts

    @property
    def weighed(self) -> bool:
        """without `--calibration none`"""
        return self.values.get("calibration.text") != "none"

    @property
    def converts(self) -> bool:
        """with `--attention`"""
        return bool(self.values.get("attention.kind"))

    @property
    def recovers(self) -> bool:
        """with `--recover`"""
        return bool(self.values.get("recovery.steps"))

    @property
    def rounds(self) -> bool:
        """with `--bits`"""
        return self.values.get("quantization.bits") is not None

    @property
    def scored(self) -> bool:
        """with `--data`"""
        return any(self.values.get(f"recovery.{key}") for key in ("data", "task"))

    @property
    def later(self) -> bool:
        """once `tlm evaluate --out` has added to it"""
        return False  # so that no run itself can check them

    @property
    def expands(self) -> bool:
        """with `--strategy static` or `dynamic`"""
        return self.values.get("strategy.name") not in (None, "none")

    @property
    def trains(self) -> bool:
        """for `finetune`"""
        return self.verb == "finetune"

    @property
    def graph(self) -> bool:
        """for `--to onnx` or `openvino`"""
        return self.values.get("export.to") in ("onnx", "openvino")  # other formats hold weights

    @property
    def loses(self) -> bool:
        """for `merge`, and for `export` with `--bits`"""
        return self.verb == "merge" or (self.verb == "export" and self.rounds)

    @property
    def kernels(self) -> tuple[str, ...]:
        """with `--attention`"""
        return tuple(self.values.get("profiling.attention") or ())

    @property
    def whole(self) -> bool:
        """without `--attention`"""
        return not self.kernels

    @property
    def latency(self) -> bool:
        """with `--latency`"""
        return bool(self.kernels or self.values.get("profiling.latency"))

    @property
    def baseline(self) -> bool:
        """with `--baseline`"""
        return self.values.get("evaluation.baseline") is not None

    @property
    def models(self) -> int:
        """How many models are profiled, or write texts."""
        return 1 + any(self.values.get(f"{x}.against") for x in ("profiling", "generation"))

    @property
    def lengths(self) -> int:
        """How many lengths are profiled."""
        return len(self.values.get("profiling.seq_len") or (128,))

    @property
    def task(self) -> Task | None:
        """The task of an evaluation or of a training."""
        section = "training" if self.trains else "evaluation"
        return TASKS.get(self.values.get(f"{section}.task") or "")

    @property
    def language(self) -> bool:
        """for the tasks `mlm` and `clm`"""
        return self.task is not None and self.task.kind == "language"

    @property
    def windowed(self) -> bool:
        """for the task `perplexity`"""
        return self.task is not None and self.task.kind == "perplexity"

    @property
    def modelled(self) -> bool:
        """for the tasks `mlm`, `clm` and `perplexity`"""
        return self.language or self.windowed

    @property
    def causal(self) -> bool:
        """for the task `clm`, or with `--teacher` for a causal language model"""
        taught = bool(self.values.get("distillation.teacher")) and self.task is None
        return taught or (self.task is not None and self.task.name == "clm")

    @property
    def packed(self) -> bool:
        """with `--pack`"""
        return self.language and bool(self.values.get("training.pack"))

    @property
    def translates(self) -> bool:
        """for the task `translation`"""
        return self.task is not None and self.task.kind == "translation"

    @property
    def predicts(self) -> bool:
        """for the tasks `translation` and `perplexity`"""
        return self.translates or self.windowed

    @property
    def perplexed(self) -> bool:
        """for the task `translation`, and in `evaluate` for `mlm`, `clm` and `perplexity`"""
        return self.translates or (self.modelled and not self.trains)

    @property
    def measured(self) -> bool:
        """for a run that writes a checkpoint"""
        return self.verb not in ("profile", "evaluate", "generate") and self.written and self.single

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that stand beside the score, under their own names."""
        task = self.task
        if task is None or not (task.labelled or self.translates):
            return ()
        shown = self.trains or (task.labelled and len(task.metrics) > 1)
        return (*(task.metrics if shown else ()), *task.scored_beside)

    @property
    def beside(self) -> tuple[str, ...]:
        """The figures and metrics that stand beside the score."""
        told = self.task is not None and (self.translates or not self.trains)
        return (*self.metrics, *(self.task.beside if self.task and told else ()))

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose seconds are told."""
        return tuple(SECONDS.get(self.verb, "").split())
