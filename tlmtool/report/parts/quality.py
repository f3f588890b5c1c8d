"""The part `quality` of a report: how good a model is before and after the change."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.asked import Asked
from tlmtool.report.figures import View, figure, share, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.costs import HEADER


@dataclass(frozen=True, kw_only=True)
class Quality(Part):
    """The loss of the model before and after; without a language-model head, its feature error."""

    key: ClassVar[str] = "quality"
    verbs: ClassVar = {"compress": "written"}

    name: str = entry("`loss` or `feature_error`")
    what: str = entry("what was measured, in words")
    before: float = entry("of the model before", "nats, or a share for a feature error")
    after: float = entry("of the model after", "nats, or a share for a feature error")
    texts: int = entry("number of held-out texts that it was measured on")

    @classmethod
    def nicknames(cls, asked: Asked) -> dict[str, str]:
        return dict.fromkeys(("loss", "feature_error"), "quality.after")

    def named(self) -> dict[str, str]:
        return {self.name: "quality.after"}

    def headline(self) -> tuple[str, float]:
        return self.name, self.after

    def views(self, report: Document, full: bool) -> list[View]:
        cells = [figure(self.before, 4), figure(self.after, 4), share(self.after, self.before)]
        row, note = [words(self.name), *cells], f"{words(self.name)}: {self.what}"
        return [View("quality", HEADER, [row], note, joins="cost")]
