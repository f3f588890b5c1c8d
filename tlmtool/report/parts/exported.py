"""The parts `export` and `beside` of a report: the file for other programs, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.pieces import Latency


@dataclass(frozen=True, kw_only=True)
class Exported(Part):
    """The file that other programs open."""

    key: ClassVar[str] = "export"
    verbs: ClassVar[Mapping[str, str]] = {"export": ""}

    to: str = entry("the format")
    file: str = entry("the file to open, below the folder")
    opens: str = entry("what opens it, in words")
    library: str = entry("the library that its card names")
    example: str = entry("a few lines of Python that open it")
    expected_bytes: int = entry("size of its weights, counted before it was written", "bytes")
    bits: int | None = entry("bits of a rounded weight", "bits", when="rounds")
    inputs: tuple[str, ...] | None = entry("names of its inputs", optional=True)
    outputs: tuple[str, ...] | None = entry("names of its outputs", optional=True)
    cache: bool | None = entry(
        "whether it takes and gives the keys and values of earlier tokens", optional=True
    )

    packages: dict[str, str] | None = entry(
        "version of each package that wrote or ran the file", optional=True
    )

    def views(self, report: Document, full: bool) -> list[View]:
        return []

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        written = f"{self.file}: {self.opens}"
        inputs = ", ".join(_brief(self.inputs or ()))
        outputs = ", ".join(_brief(self.outputs or ()))
        size = f"about {human(self.expected_bytes, 'B')} of weights"
        made = ", ".join(f"{name} {version}" for name, version in (self.packages or {}).items())
        found = [("file", written), ("size", size), ("inputs", inputs), ("outputs", outputs)]
        return [*found, ("made with", made)]


def _brief(names: tuple[str, ...]) -> list[str]:
    """The names, those of the cache as one."""
    plain = [name for name in names if "." not in name]
    held = [name for name in names if "." in name]
    return plain + ([f"{held[0]} ... {held[-1]}"] if held else [])


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One of the models that were timed."""

    id: str = entry("which model, and what runs it")
    file_bytes: int = entry("size of its files of weights", "bytes")
    latency_ms: Latency = entry("time of a forward pass", "ms")


@dataclass(frozen=True, kw_only=True)
class Beside(Part):
    """The file beside the model that it was made from, and beside `--against`: bytes and time."""

    key: ClassVar[str] = "beside"
    verbs: ClassVar[Mapping[str, str]] = {"export": "written graph"}

    batch: int = entry("texts in a pass")
    length: int = entry("tokens of a text", "tokens")
    threads: int = entry("threads of each runtime")
    models: tuple[Timed, ...] = entry("the models, in turns")

    def views(self, report: Document, full: bool) -> list[View]:
        first = self.models[0]
        rows = [
            [
                each.id,
                human(each.file_bytes, "B"),
                figure(each.file_bytes / first.file_bytes, 2) if first.file_bytes else "",
                figure(each.latency_ms.median, 2),
                figure(each.latency_ms.median / first.latency_ms.median, 2),
            ]
            for each in self.models
        ]
        note = (
            f"ms: median of {first.latency_ms.runs} forward passes in turns, {self.batch} x "
            f"{self.length} tokens, {self.threads} thread{'s' * (self.threads > 1)}\n"
            "share: of the first row"
        )
        header = ["", "bytes on disk", "share", "ms", "share"]
        return [View("size and time", header, rows, note)]
