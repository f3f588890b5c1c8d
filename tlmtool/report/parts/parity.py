"""The part `parity` of a report: whether a model computes the same after a change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.step import Step


@dataclass(frozen=True, kw_only=True)
class Parity(Part):
    """How far the outputs of two models lie apart that should compute the same."""

    key: ClassVar[str] = "parity"
    verbs: ClassVar[Mapping[str, str]] = {
        "merge": "",
        "export": "written",
        "overparam": "written",
        "finetune": "written single expands",
    }

    max_abs: float = entry("largest difference of an output")
    relative: float = entry("the same, divided by the largest output")
    tolerance: float = entry("the largest relative difference that is allowed")
    rounding: float | None = entry(
        "relative difference by rounding to the dtype or the bits that are written; absent for "
        "float32",
        when="loses",
    )

    def views(self, report: Document, full: bool) -> list[View]:
        rows = [
            ["largest difference", f"{self.max_abs:.1e}"],
            ["relative to the largest output", f"{self.relative:.1e}"],
            ["tolerance", f"{self.tolerance:.1e}"],
        ]
        rows += [] if self.rounding is None else [["rounding", f"{self.rounding:.1e}"]]
        ending = report.part(Ending)
        if ending is not None and (ending.recipe.get("strategy") or {}).get("no_merge"):
            held = "saved with its cores against trained"
        elif report.verb == "export":
            held = "the file against the model"
        else:
            larger = report.part(Step) is not None
            held = "larger against before" if larger else "merged against factorized"
        return [View(f"parity: {held}", ["", "figure"], rows)]
