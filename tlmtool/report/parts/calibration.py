"""The parts `calibration` and `allocation` of a report: what text weighed the error, and how."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Calibration(Part):
    """The text whose activations weighed the error of the factors."""

    key: ClassVar[str] = "calibration"
    verbs: ClassVar = {"compress": "", "repair": ""}

    source: str | None = entry("where the text comes from", optional=True)
    texts: int | None = entry("number of texts", when="weighed")
    windows: int | None = entry(
        "number of windows of joined text, for a causal language model", when="weighed"
    )
    window: int | None = entry("tokens of such a window", "tokens", when="weighed")
    tokens: int | None = entry("number of tokens", when="weighed")
    held_out: str | None = entry(
        "the text that is held out for measuring, for a causal language model", optional=True
    )
    measured_on: str | None = entry(
        "the text that the quality was measured on, where none of this one was left", optional=True
    )

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        windows = f"windows of {self.window:,}" if self.window else ""
        counts = {"texts": self.texts, windows: self.windows, "tokens": self.tokens}
        told = [
            self.source or "",
            *(f"{n:,} {what}" for what, n in counts.items() if n is not None),
        ]
        told.append(f"measured on {self.measured_on}" if self.measured_on else "")
        return [("calibration", ", ".join(filter(None, told))), ("held out", self.held_out or "")]


@dataclass(frozen=True, kw_only=True)
class Allocation(Part):
    """How a budget was spread over the sites."""

    key: ClassVar[str] = "allocation"
    verbs: ClassVar = {"compress": ""}

    loss: str | None = entry("the loss that a greedy allocation lowered, in words", optional=True)
    target: str | None = entry(
        "the budget of the whole model, and the `--keep` that it became, in words", optional=True
    )

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        return [("target", self.target or ""), ("allocation", self.loss or "")]
