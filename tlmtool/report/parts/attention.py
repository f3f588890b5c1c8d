"""The part `attention` of a report: which layers got another attention, and how well it fits."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tlmtool.report.figures import View, figure, human, kernel, words
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.quality import Quality
from tlmtool.report.pieces import Ends

FITTED = (
    "parameters with the output projection; output error: relative, of the output map fitted by "
    "least squares to what the dense layer gives on the calibration text; of w_o full on texts of "
    "it that were held out of the fit"
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A layer whose attention was replaced."""

    site: str = entry("path of its attention module")
    attention: dict[str, Any] = entry("name and settings of the kernel")
    parameters: Ends | None = entry(
        "of the module and its output projection", "parameters", when="written"
    )
    output_error: float | None = entry(
        "relative error of its output on the calibration text; null where nothing was fitted"
    )


@dataclass(frozen=True, kw_only=True)
class Alone:
    """What the conversion of one layer costs."""

    site: str = entry("path of its attention module")
    increase: float = entry(
        "rise of the loss when only this layer is converted", "nats, or a share"
    )
    together: float | None = entry(
        "rise of the loss with the less sensitive layers converted too",
        "nats, or a share",
        optional=True,
    )


@dataclass(frozen=True, kw_only=True)
class Attention(Part):
    """The layers whose softmax attention was replaced by a kernel."""

    key: ClassVar[str] = "attention"
    verbs: ClassVar = {"compress": "converts"}

    layers: tuple[Converted, ...] = entry("the converted layers")
    alone: tuple[Alone, ...] | None = entry(
        "each layer by itself, least sensitive first; with `--max-loss-increase`", optional=True
    )
    quality: float | None = entry(
        "the quality right after the conversion, before anything else was done",
        "as in the part `quality`",
        when="written",
    )
    off: float | None = entry(
        "the same with all kernels switched off, so that only their local mixers are left",
        "as in the part `quality`",
        when="written",
    )

    def views(self, report: Document, full: bool) -> list[View]:
        return [self._layers(), self._alone(), self._stages(report)]

    def _layers(self) -> View:
        rows = []
        for each in self.layers:
            counts = each.parameters
            cells = [human(counts.before), human(counts.after)] if counts else ["", ""]
            rows.append([each.site, *cells, figure(each.output_error)])
        used = "; ".join(sorted({kernel(each.attention) for each in self.layers}))
        fitted = any(each.output_error is not None for each in self.layers)
        header, note = ["", "before", "after", "output error"], f"; {FITTED}" if fitted else ""
        return View("converted attention", header, rows, used + note)

    def _alone(self) -> View:
        rows = []
        for each in self.alone or ():
            together = "" if each.together is None else f"{each.together:+.4f}"
            rows.append([each.site, f"{each.increase:+.4f}", together])
        note = "rise of the loss in nats, or of the feature error; the least sensitive first"
        return View("sensitivity", ["", "alone", "with those above"], rows, note)

    def _stages(self, report: Document) -> View:
        """The quality before, after the conversion, and at the end where more came after it."""
        quality = report.part(Quality)
        if quality is None or self.quality is None:
            return View("", [], [])
        values = {"before": quality.before, "kernels off": self.off, "converted": self.quality}
        if self.quality != quality.after:
            values["at the end"] = quality.after
        rows = [[name, figure(value, 4)] for name, value in values.items()]
        note = "kernels off, right after the conversion: only local mixers are left of attention"
        return View("stages", ["", words(quality.name)], rows, note)
