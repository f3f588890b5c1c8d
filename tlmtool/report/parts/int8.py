"""The part `int8` of a report: what 8 bits alone would do to the dense model."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.costs import FileBytes
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quality import Quality

INT8 = "int8 of the dense model"


@dataclass(frozen=True, kw_only=True)
class Int8(Part):
    """The dense model with its weights rounded to 8 bits, as `tlm quantize MODEL --bits 8` does.

    It is the rival of every compression."""

    key: ClassVar[str] = "int8"
    verbs: ClassVar = {"compress": "written"}

    file_bytes: int = entry("size of its files, counted: they are not written", "bytes")
    bits_per_weight: float = entry("bits of those for each parameter", "bits")
    value: float | None = entry(
        "its loss or feature error, measured as those of the other models",
        "nats, or a share for a feature error",
        optional=True,
    )
    not_measured: str | None = entry("why that was not measured", optional=True)

    def views(self, report: Document, full: bool) -> list[View]:
        quality, files = report.part(Quality), report.part(FileBytes)
        if files is None:
            return []
        name = words(quality.name) if quality else "loss"
        dense = quality.before if quality else None
        own = quality.after if quality else None
        loss = quality is not None and quality.nats is not None

        def row(label: str, size: int | None, bits: float | None, value: float | None) -> list[str]:
            rise = f"{value - dense:+.3f}" if loss and value is not None and dense else ""
            return [label, human(size, "B"), figure(bits, 2), figure(value, 4), rise]

        rows = [
            row("dense", files.before, files.bits_per_weight_before, dense),
            row(INT8, self.file_bytes, self.bits_per_weight, self.value),
            row("this model", files.after, files.bits_per_weight_after, own),
        ]
        header = ["", "bytes on disk", "bits per weight", name, "above dense"]
        return [View("beside 8 bits alone", header, rows, self.verdict(report))]

    def verdict(self, report: Document) -> str:
        """Which of the two is smaller, and which is better, in a sentence or two."""
        quality, files, model = report.part(Quality), report.part(FileBytes), report.part(Model)
        smaller = files is not None and self.file_bytes <= files.after
        size = f"{INT8} is {'smaller' if smaller else 'larger'} than this model"
        if self.value is None or quality is None:
            return f"{size}; {self.not_measured}"
        better = self.value <= quality.after
        name = words(quality.name)
        told = f"{size}, and its {name} is {'lower' if better else 'higher'}"
        if smaller and better:
            asked = (model.id if model else None) or "MODEL"
            told += f": for size alone, take tlm quantize {asked} --bits 8"
        return told
