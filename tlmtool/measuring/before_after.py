"""The score of one model before and after a change, on the same rows of data."""

from collections.abc import Callable
from typing import Any

from torch import nn

from tlmtool.measuring.evaluation import overall, paired
from tlmtool.measuring.outputs import counted, position_limit
from tlmtool.measuring.scoring import Asked, Found, found_of, together
from tlmtool.report.building import built
from tlmtool.report.parts.score import Score
from tlmtool.tasks.table import Task


class BeforeAfter:
    """Scores a model each time that it is called with one; the first and the last are compared.

    `rows`: pairs for similarity, or labelled examples; `source`: where they come from, in words.
    """

    def __init__(
        self,
        task: Task,
        rows: list[Any],
        tokenizer: Any,
        source: str,
        *,
        max_length: int = 128,
        seed: int = 0,
        batch: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.task, self.rows, self.tokenizer, self.source = task, rows, tokenizer, source
        self.settings: dict[str, Any] = {"batch": batch, "max_length": max_length}
        self.seed, self.progress = seed, progress
        self.measured: list[tuple[dict[str, Any], Found]] = []

    def __call__(self, model: nn.Module) -> float:
        """The score of the model as it is now. Raises Failure for one that is not finite."""
        longest = self.settings["max_length"]
        passes = 2 if self.task.kind == "similarity" else 1
        more = {
            "max_length": min(longest, position_limit(model) or longest),
            "tick": counted(self.progress, passes * len(self.rows)),
        }
        given = ([self.tokenizer], self.rows, self.settings | more, self.seed, False, None, 1)
        found = found_of(Asked(self.task, [model], None, *given))
        score = overall(self.task, model, found.statistics[0], found) | found.figures[0]
        self.measured = [*self.measured[:1], (score, found)]
        return float(score["score"])

    def first(self, model: nn.Module) -> list[tuple[dict[str, Any], Found]]:
        """Score the model before the change; `measured` of another of the same rows may be this."""
        self(model)
        return self.measured

    @property
    def before(self) -> float:
        """The score of the first model."""
        return float(self.measured[0][0]["score"])

    @property
    def warnings(self) -> list[str]:
        """What makes the scores doubtful, each once."""
        return list(dict.fromkeys(told for _, found in self.measured for told in found.warnings))

    def compared(self) -> Score:
        """The part `score` of a report. The model must have been scored twice."""
        (first, before), (last, after) = self.measured
        found = together(self.task, self.rows, after, before)
        kept = ("difference", "interval", "level", "method", "resamples")
        told = paired(self.task, [last, first], found, self.seed)
        ends = {
            name: {"before": first[name], "after": last[name]}
            for name in self.task.figures
            if name in first
        }
        return built(
            Score,
            {
                "task": self.task.name,
                "metric": self.task.metric,
                "better": self.task.better,
                "what": found.what,
                "data": self.source,
                "n": found.count,
                "before": first["score"],
                "after": last["score"],
                "metrics": ends or None,
                "examples": last["examples"],
            }
            | {name: told[name] for name in kept if name in told},
        )
