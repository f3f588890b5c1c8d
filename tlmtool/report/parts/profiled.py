"""The part `models` of a report of profile: what a model costs, alone or beside a second."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human, share
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Latency

Cells = dict[str, dict[int, tuple[float, str]]]  # {row: {column: (value, as text)}}


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass at one length."""

    seq_len: int = entry("length of each text", "tokens")
    batch: int = entry("number of texts")
    flops: int = entry("operations of the pass", "FLOPs")
    by_part: dict[str, int] = entry("operations of each role and of the attention", "FLOPs")
    latency_ms: Latency | None = entry("time of the pass", when="latency", optional=False)
    peak_memory_bytes: int | None = entry(
        "most memory at once, above what was in use before, which includes the weights; null where "
        "it cannot be measured",
        "bytes",
    )


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """A model and its costs."""

    id: str = entry("the model")
    parameters: int = entry("parameters of the model", "parameters")
    by_role: dict[str, int] = entry("parameters of each role", "parameters")
    weight_bytes: int = entry("memory that the weights take", "bytes")
    file_bytes: int | None = entry("size of the files of weights", "bytes", optional=True)
    bits_per_weight: float | None = entry("bits of those for each parameter", "bits", optional=True)
    sums: dict[str, str] | None = entry(
        "checksum (sha256) of each of those files, and of config.json", optional=True
    )
    runs: tuple[Pass, ...] = entry("a forward pass at each length", count="lengths")


@dataclass(frozen=True, kw_only=True)
class Profile(Part):
    """The costs of one model, or of two side by side."""

    verbs: ClassVar = {"profile": "whole"}

    models: tuple[Profiled, ...] = entry("the models", count="models")

    def views(self, report: Document, full: bool) -> list[View]:
        """Each model a column, and the second over the first where there are two."""
        cells: Cells = {}
        for column, model in enumerate(self.models):
            for label, value, text in _figures(model):
                if value is not None:
                    cells.setdefault(label, {})[column] = (value, text)
        rows = []
        for label, held in cells.items():
            both = len(self.models) == 2 and len(held) == 2
            ratio = share(held[1][0], held[0][0]) if both else ""
            rows.append([label, *(held.get(i, (0, ""))[1] for i in range(len(self.models))), ratio])
        return [View("profile", ["", *(each.id for each in self.models), "ratio"], rows)]


def _figures(model: Profiled) -> list[tuple[str, float | None, str]]:
    """(label, value, value as text) of each row of a model's column."""
    found: list[tuple[str, float | None, str]] = [
        ("parameters", model.parameters, human(model.parameters)),
        *((f"  {role}", count, human(count)) for role, count in model.by_role.items()),
        ("bytes on disk", model.file_bytes, human(model.file_bytes, "B")),
        ("bits per weight", model.bits_per_weight, figure(model.bits_per_weight, 2)),
        ("bytes in memory", model.weight_bytes, human(model.weight_bytes, "B")),
    ]
    for run in model.runs:
        at = f"{run.batch} x {run.seq_len}"
        found.append((f"FLOPs {at}", run.flops, human(run.flops, "FLOPs")))
        for part, count in run.by_part.items():
            found.append((f"  {part}, {at}", count, human(count, "FLOPs")))
        median = run.latency_ms.median if run.latency_ms else None
        found.append((f"latency {at}", median, f"{median or 0:.2f} ms"))
        peak = run.peak_memory_bytes
        found.append((f"peak memory {at}", peak, human(peak, "B")))
    return found
