"""The parts `parameters`, `flops`, `weight_bytes` and `file_bytes` of a report: size and cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, share
from tlmtool.report.layout import Document, Part, entry

HEADER = ["", "before", "after", "after / before"]
MADE = {"compress": "counted", "quantize": "", "merge": "", "overparam": ""}
WRITTEN = {"compress": "written", "quantize": "", "merge": "", "overparam": "written"}
WRITTEN |= {"export": "written", "finetune": "written single"}
_SHARE = "sites: the layers that were chosen, {} of the model's parameters before"


def cost(
    label: str, before: float | None, after: float | None, unit: str = "", note: str = ""
) -> list[View]:
    """A row of the table of costs, which several parts share; none where nothing is known."""
    if before is None and after is None:
        return []
    row = [label, human(before, unit), human(after, unit), share(after, before)]
    return [View("cost", HEADER, [row], note, joins="cost")]


@dataclass(frozen=True, kw_only=True)
class RoleSize:
    """The sites of one role."""

    sites: int = entry("number of sites")
    before: int = entry("their parameters before", "parameters")
    after: int = entry("their parameters after", "parameters")


@dataclass(frozen=True, kw_only=True)
class Parameters(Part):
    """How many parameters the model has, before and after."""

    key: ClassVar[str] = "parameters"
    verbs: ClassVar[Mapping[str, str]] = MADE | {"finetune": "written single"}

    before: int = entry("parameters of the model before", "parameters")
    after: int = entry("parameters of the model after", "parameters")
    sites_before: int | None = entry("of the chosen sites, before", "parameters", when="sized")
    sites_after: int | None = entry("of the chosen sites, after", "parameters", when="sized")
    sites_share: float | None = entry(
        "share of the model's parameters that the chosen sites hold, before", when="sized"
    )
    keep: float | None = entry("share of the sites' parameters that is kept", when="shrinks")
    growth: float | None = entry("parameters of the sites, after / before", when="grows")
    by_role: dict[str, RoleSize] | None = entry("the chosen sites of each role", when="sized")

    def views(self, report: Document, full: bool) -> list[View]:
        found = cost("parameters", self.before, self.after)
        note = "" if self.sites_share is None else _SHARE.format(figure(self.sites_share))
        if self.keep is not None:
            whole = f"{self.after / self.before:.2f} of the model"
            note += f"\nkeeps {self.keep:.2f} of the chosen layers, {whole}"
        found += cost("  of the sites", self.sites_before, self.sites_after, note=note)
        rows = [
            [role, str(e.sites), human(e.before), human(e.after), share(e.after, e.before)]
            for role, e in (self.by_role or {}).items()
        ]
        held = "keep" if self.growth is None else "growth"
        header = ["role", "sites", "before", "after", held]
        return [*found, View("parameters by role", header, rows)]


@dataclass(frozen=True, kw_only=True)
class Flops(Part):
    """Floating-point operations of one forward pass; a multiply-add counts as two."""

    key: ClassVar[str] = "flops"
    verbs: ClassVar[Mapping[str, str]] = MADE

    note: str = entry("what was counted")
    before: int = entry("of the model before", "FLOPs")
    after: int = entry("of the model after", "FLOPs")

    def views(self, report: Document, full: bool) -> list[View]:
        return cost("FLOPs", self.before, self.after, "FLOPs", f"FLOPs: {self.note}")


@dataclass(frozen=True, kw_only=True)
class WeightBytes(Part):
    """Memory that the weights take once the model is loaded."""

    key: ClassVar[str] = "weight_bytes"
    verbs: ClassVar[Mapping[str, str]] = MADE

    before: int = entry("of the model before", "bytes")
    after: int = entry("of the model after", "bytes")

    def views(self, report: Document, full: bool) -> list[View]:
        """Shown where no files were written; a checkpoint's table has the bytes of its files."""
        written = report.part(FileBytes) is not None
        return [] if written else cost("bytes in memory", self.before, self.after, "B")


@dataclass(frozen=True, kw_only=True)
class FileBytes(Part):
    """Size on disk of the files of weights."""

    key: ClassVar[str] = "file_bytes"
    verbs: ClassVar[Mapping[str, str]] = WRITTEN

    before: int | None = entry("of the checkpoint that was read; null for a new model", "bytes")
    after: int = entry("of the checkpoint that was written", "bytes")
    bits_per_weight_before: float | None = entry(
        "bits of those files for each parameter of the model before", "bits", optional=True
    )
    bits_per_weight_after: float | None = entry(
        "bits of those files for each parameter of the model after", "bits", optional=True
    )

    def views(self, report: Document, full: bool) -> list[View]:
        before, after = self.bits_per_weight_before, self.bits_per_weight_after
        bits = [figure(before, 2), figure(after, 2), share(after, before)]
        rows = cost("bytes on disk", self.before, self.after, "B")
        if after is not None:
            rows.append(View("cost", HEADER, [["bits per weight", *bits]], joins="cost"))
        return rows
