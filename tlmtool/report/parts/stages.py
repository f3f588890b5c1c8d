"""The part `stages` of a report of run: the report of each stage of a pipeline."""

from dataclasses import dataclass
from math import fsum
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.costs import Parameters
from tlmtool.report.parts.ending import Ending


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage and its report."""

    name: str = entry("name of the stage")
    report: Document = entry("its report, whose keys stand beside the name", spread=True)


@dataclass(frozen=True, kw_only=True)
class Stages(Part):
    """The stages of a pipeline, in order."""

    verbs: ClassVar = {"run": ""}

    stages: tuple[Stage, ...] = entry("the stages")

    def views(self, report: Document, full: bool) -> list[View]:
        """A row for each stage: its size after, the first headline of its parts, its time."""
        rows = []
        for stage in self.stages:
            size, ending = stage.report.part(Parameters), stage.report.part(Ending)
            told = (part.headline() for part in stage.report.parts)
            name, value = next(filter(None, told), ("", None))
            seconds = fsum(ending.seconds.values()) if ending else 0
            cells = [words(name), figure(value, 4), f"{seconds:.0f} s"]
            rows.append(
                [stage.name, stage.report.verb, human(size.after if size else None), *cells]
            )
        return [View("stages", ["", "verb", "parameters", "metric", "score", "time"], rows)]
