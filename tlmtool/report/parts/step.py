"""The parts `step` and `expanded` of a report: what larger matrices will cost in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlmtool.report.figures import View, described, figure, human, largest, mean
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Ends

LARGER: Mapping[str, str] = {"overparam": "", "finetune": "predicted single"}
COSTS = {  # field: label and unit in the table
    "parameters": ("parameters", ""),
    "optimizer_bytes": ("moments of AdamW", "B"),
    "step_flops": ("FLOPs of a step", "FLOPs"),
}


@dataclass(frozen=True, kw_only=True)
class Step(Part):
    """What a training step is predicted to cost, without and with the larger matrices."""

    key: ClassVar[str] = "step"
    verbs: ClassVar[Mapping[str, str]] = LARGER

    note: str = entry("what a step is, in words")
    parameters: Ends = entry("parameters that are trained", "parameters")
    optimizer_bytes: Ends = entry("memory of the moments of AdamW", "bytes")
    step_flops: Ends = entry("operations of one step, forward and backward", "FLOPs")
    steps: int | None = entry("number of steps of the training", when="trains")

    def views(self, report: Document, full: bool) -> list[View]:
        rows = []
        for name, (label, unit) in COSTS.items():
            ends: Ends = getattr(self, name)
            cells = [human(ends.before, unit), human(ends.after, unit)]
            rows.append([label, *cells, figure(ends.after / ends.before)])
        return [View("training", ["", "before", "after", "after / before"], rows, self.note)]


@dataclass(frozen=True, kw_only=True)
class Larger:
    """A matrix that is held as more parameters than it has."""

    site: str = entry("its path in the model")
    role: str = entry("what it is for, such as query or up")
    decomposition: dict[str, Any] = entry("name and settings of the decomposition")
    growth: float = entry("its parameters, after / before")
    max_abs: float | None = entry(
        "largest difference between the matrix and the product of its cores", when="grows written"
    )


@dataclass(frozen=True, kw_only=True)
class Expanded(Part):
    """The matrices that are, or may be, over-parameterized."""

    verbs: ClassVar[Mapping[str, str]] = LARGER

    expanded: tuple[Larger, ...] = entry("the matrices")

    def views(self, report: Document, full: bool) -> list[View]:
        groups: dict[str, list[Larger]] = {}
        for each in self.expanded:
            key = each.site if full else f"{each.role} {described(each.decomposition)}"
            groups.setdefault(key, []).append(each)
        rows = []
        for first, *rest in groups.values():
            group, name = [first, *rest], first.site if full else first.role
            growth = mean((each.growth for each in group), 2)
            errors = largest(each.max_abs for each in group)
            rows.append([name, str(len(group)), described(first.decomposition), growth, errors])
        header = ["role", "matrices", "decomposition", "growth", "max |dW|"]
        return [View("larger matrices", header, rows)]
