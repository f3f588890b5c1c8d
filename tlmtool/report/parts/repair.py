"""The part `repair` of a report: what an adapter wins, and how large it is."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, figure, human, words
from tlmtool.report.layout import Document, Part, entry

MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Repair(Part):
    """An adapter that brings a changed model nearer to its original, measured on held-out text.

    Without a language-model head the figures are errors of the last hidden state against that of
    the original.
    """

    key: ClassVar[str] = "repair"
    verbs: ClassVar = {"repair": ""}

    rank: int = entry("rank of the adapter at each layer")
    sites: int = entry("linear layers that have a part of it")
    parameters: int = entry("numbers of the adapter", "parameters")
    adapter_bytes: int = entry("size of the file of the adapter", "bytes")
    model_bytes: int = entry("size of the files of the model that it repairs", "bytes")
    original_bytes: int = entry("size of the files of the original", "bytes")
    name: str | None = entry("`loss` or `feature_error`", optional=True)
    what: str | None = entry("what was measured, in words", optional=True)
    original: float | None = entry(
        "of the original", "nats, or a share for a feature error", optional=True
    )
    before: float | None = entry(
        "of the model without the adapter", "nats, or a share for a feature error", optional=True
    )
    after: float | None = entry(
        "of the model with the adapter", "nats, or a share for a feature error", optional=True
    )
    won: float | None = entry("before - after", "nats, or a share", optional=True)
    won_interval: tuple[float, float] | None = entry(
        "95 % interval of that, for a causal language model", "nats", optional=True
    )
    won_per_mb: float | None = entry(
        "won for each million bytes of the adapter", "nats, or a share", optional=True
    )

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        return dict.fromkeys(("loss", "feature_error"), "repair.after")

    def named(self) -> dict[str, str]:
        return {self.name: "repair.after"} if self.name else {}

    def headline(self) -> tuple[str, float] | None:
        return (self.name, self.after) if self.name and self.after is not None else None

    def views(self, report: Document, full: bool) -> list[View]:
        both = self.model_bytes + self.adapter_bytes
        rows = [
            ["original", human(self.original_bytes, "B"), *self._scored(self.original)],
            ["model", human(self.model_bytes, "B"), *self._scored(self.before)],
            ["model and adapter", human(both, "B"), *self._scored(self.after)],
        ]
        header = ["", "bytes on disk", words(self.name or "loss"), "above the original"]
        return [View("repair", header, rows, self._note())]

    def _scored(self, value: float | None) -> list[str]:
        if value is None:
            return ["", ""]
        rise = value - (self.original or 0.0)
        return [figure(value, 4), f"{rise:+.4f}" if rise and self.name == "loss" else ""]

    def _note(self) -> str:
        size = human(self.adapter_bytes, "B")
        told = f"adapter: rank {self.rank}, {self.sites} layers, {size}"
        if self.won is None or self.won_per_mb is None:
            return told
        unit = "nats" if self.name == "loss" else "of the error"
        told += f"; it wins {self.won:.4f} {unit}, {self.won_per_mb:.5f} per MB"
        if self.won_interval:
            told += " (95 % interval {:.4f} to {:.4f})".format(*self.won_interval)
        return f"{told}\n{words(self.name or '')}: {self.what}"
