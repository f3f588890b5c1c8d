"""The parts that end every report: what it took, what it was made with, and what it did not do."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tlmtool.report.figures import View, figure, human
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.costs import WRITTEN
from tlmtool.report.parts.model import EVERY, Model


@dataclass(frozen=True, kw_only=True)
class Source(Part):
    """Where the data of an evaluation or of a training comes from."""

    verbs: ClassVar = {"finetune": "single", "evaluate": ""}

    data: str = entry("where the data comes from")

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        return [("data", self.data)]


@dataclass(frozen=True, kw_only=True)
class Predicted(Part):
    """Says that a report holds predictions: it comes from a dry run."""

    verbs: ClassVar = dict.fromkeys(("compress", "overparam", "export", "finetune"), "predicted")

    predicted: bool = entry("true")
    predicted_if: str | None = entry("the condition of the prediction, if any", optional=True)

    def views(self, report: Document, full: bool) -> list[View]:
        return []


@dataclass(frozen=True, kw_only=True)
class Note(Part):
    """What was counted and measured, in words."""

    verbs: ClassVar = {"profile": ""}

    note: str = entry("the note")

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        return [("note", self.note)]


@dataclass(frozen=True, kw_only=True)
class Inputs(Part):
    """The files that a run read. A run that goes on must read the same."""

    verbs: ClassVar = {"compress": "written", "finetune": "written single"}

    inputs: dict[str, dict[str, str]] = entry("checksum of each file, by the setting that names it")

    def views(self, report: Document, full: bool) -> list[View]:
        return []


@dataclass(frozen=True, kw_only=True)
class Files(Part):
    """The files of a checkpoint. `--overwrite` may replace these and no others."""

    verbs: ClassVar = WRITTEN | {"repair": ""}

    files: tuple[str, ...] = entry("paths below the folder")
    sums: dict[str, str] | None = entry(
        "checksum (sha256) of each file of weights that was written, and of config.json",
        optional=True,
    )

    def views(self, report: Document, full: bool) -> list[View]:
        return []


@dataclass(frozen=True, kw_only=True)
class Ending(Part):
    """What the run took, and all that is needed to repeat it."""

    verbs: ClassVar = EVERY

    warnings: tuple[str, ...] = entry("what could not be done as it was asked for")
    peak_memory_bytes: int | None = entry(
        "most memory at once, above what was in use at the start; absent where it cannot be "
        "measured",
        "bytes",
        when="measured",
    )
    peak_memory_kind: str | None = entry(
        "what that counts: `rss`, resident memory of the process, or `cuda`, what torch allocates "
        "on the GPU",
        when="measured",
    )
    peak_rss_bytes: int | None = entry(
        "most resident memory of the process since it started, what was in use before included; "
        "memory of a GPU is not in it",
        "bytes",
        optional=True,
    )
    streamed: bool | None = entry(
        "true where the weights stayed in their files and were read block by block, because they "
        "take more than half of the memory",
        optional=True,
    )
    seconds: dict[str, float] = entry("time of each stage", "s", names="stages")
    seed: int = entry("seed of everything random")
    versions: dict[str, str] = entry("version of tlm, of Python and of each library")
    recipe: dict[str, Any] = entry("the resolved recipe; `--recipe` reads it")

    def views(self, report: Document, full: bool) -> list[View]:
        return []

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        model = report.part(Model)
        sums = (model.sha256 if model else None) or {}
        digests = (f"{file} {digest if full else digest[:12]}" for file, digest in sums.items())
        seconds = (f"{name} {figure(value, 1)}" for name, value in self.seconds.items())
        return [
            ("seconds", ", ".join(seconds)),
            ("peak memory", self._memory()),
            ("seed", str(self.seed)),
            ("versions", ", ".join(f"{name} {each}" for name, each in self.versions.items())),
            ("sha256", ", ".join(digests)),
        ]

    def _memory(self) -> str:
        """'412 MB above what was in use before; peak RSS of the process 1.02 GB'."""
        told = []
        if self.peak_memory_bytes is not None:
            kind = " of the GPU" if self.peak_memory_kind == "cuda" else ""
            told.append(f"{human(self.peak_memory_bytes, 'B')}{kind} above what was in use before")
        if self.peak_rss_bytes is not None:
            told.append(f"peak RSS of the process {human(self.peak_rss_bytes, 'B')}")
        if self.streamed:
            told.append("weights read from their files block by block")
        return "; ".join(told)
