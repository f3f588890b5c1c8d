"""The parts `selections` and `expansions` of a report: which matrices a training made larger."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tlmtool.report.figures import View, described, largest, layer, mean
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.ending import Ending

# Without a strategy the lists are empty, so that there are no figures in them.
EXPANDED = {"finetune": "written single"}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The matrices that were chosen at one step."""

    step: int = entry("the step")
    chosen: tuple[str, ...] = entry("their paths in the model, most important first")
    scores: dict[str, float] = entry("importance of each matrix that could be chosen")
    roles: dict[str, str] = entry("role of each matrix that could be chosen")


@dataclass(frozen=True, kw_only=True)
class Selections(Part):
    """When matrices were chosen to be over-parameterized, and which."""

    verbs: ClassVar = EXPANDED

    selections: tuple[Selection, ...] = entry("the selections", when="expands", optional=False)

    def views(self, report: Document, full: bool) -> list[View]:
        """The layers chosen at each selection, by role, most important first."""
        rows = []
        for each in self.selections:
            by_role: dict[str, list[str]] = {}
            for site in each.chosen:
                told = f"{layer(site)} ({each.scores[site]:.2g})"
                by_role.setdefault(each.roles[site], []).append(told)
            for role, sites in by_role.items():
                rows.append([f"step {each.step}", role, ", ".join(sites)])
        note = f"chosen: layers, in brackets their importance{_importance(report)}"
        return [View("selections", ["", "role", "chosen"], rows, note)]


def _importance(report: Document) -> str:
    """' (taylor, summed over the steps since the last selection)'."""
    ending = report.part(Ending)
    strategy = (ending.recipe.get("strategy") or {}) if ending else {}
    static = strategy.get("name") == "static"
    kind = strategy.get("importance") or ("zero-out" if static else "taylor")
    summed = kind != "zero-out" and not static
    return f" ({kind}{', summed over the steps since the last selection' if summed else ''})"


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A matrix that was over-parameterized."""

    site: str = entry("its path in the model")
    role: str = entry("what it is for, such as query or up")
    decomposition: dict[str, Any] = entry("name and settings of the decomposition")
    growth: float = entry("its parameters, after / before")
    step_ratio: float = entry(
        "how far a step of AdamW on the cores moves the matrix, over one on the matrix itself"
    )
    max_abs: float = entry("largest difference between the matrix and the product of its cores")
    first_update: dict[str, float] = entry("norm of the first step of each core")


@dataclass(frozen=True, kw_only=True)
class Expansions(Part):
    """The matrices that were over-parameterized, and how they moved."""

    verbs: ClassVar = EXPANDED

    expansions: tuple[Expansion, ...] = entry("the matrices", when="expands", optional=False)

    def views(self, report: Document, full: bool) -> list[View]:
        groups: dict[str, list[Expansion]] = {}
        for each in self.expansions:
            key = each.site if full else f"{each.role} {described(each.decomposition)}"
            groups.setdefault(key, []).append(each)
        rows = []
        for first, *rest in groups.values():
            group = [first, *rest]
            updates = [u for each in group for u in each.first_update.values()]
            rows.append(
                [
                    *(first.site if full else first.role, str(len(group))),
                    described(first.decomposition),
                    mean((each.growth for each in group), 2),
                    mean((each.step_ratio for each in group), 2),
                    f"{min(updates):.1e}" if updates else "",
                    largest(each.max_abs for each in group),
                ]
            )
        header = ["role", "matrices", "decomposition", "growth"]
        header += ["step ratio", "least update", "max |dW|"]
        note = (
            "step ratio: how far an AdamW step on the cores moves W over one on W itself, at one "
            "rate, on the gradient at expansion; least update: the smallest norm of a core's first "
            "step; max |dW|: of the expansion"
        )
        return [View("over-parameterized matrices", header, rows, note)]
