"""The reports of several budgets of one model, as the points of a front: size against quality."""

from collections.abc import Iterable, Mapping
from typing import Any

from tlmtool.report.parts.costs import FileBytes, Flops, Parameters, WeightBytes
from tlmtool.report.parts.ending import Ending, Predicted
from tlmtool.report.parts.forecast import Forecast
from tlmtool.report.parts.front import DENSE, INT8, Front, Point
from tlmtool.report.parts.int8 import Int8
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quality import Quality
from tlmtool.report.parts.quantization import Quantization
from tlmtool.report.parts.score import Score
from tlmtool.report.report import Report


def front_of(
    budgets: Iterable[str], reports: Mapping[str, Report], failed: Mapping[str, str], **more: Any
) -> Front:
    """The part `front`: the dense model, then these budgets in their order.

    `reports`: {budget: its report}; `failed`: {each other budget: why there is none}; `more`:
    further fields of the part."""
    first = next(iter(reports.values()))
    quality, score = first.part(Quality), first.part(Score)
    points = (_point(each, reports.get(each), failed) for each in budgets)
    return Front(
        points=(*_dense(first), *points),
        quality=quality and quality.name,
        what=quality and quality.what,
        metric=score and score.metric,
        better=score and score.better,
        **more,
    )


def _dense(report: Report) -> list[Point]:
    """The model before, by itself and in 8 bits, as the report of any budget has it."""
    sizes, files = report.part(Parameters), report.part(FileBytes) or report.part(WeightBytes)
    flops, quality, score = report.part(Flops), report.part(Quality), report.part(Score)
    dense = Point(
        budget=DENSE,
        share=1.0,
        parameters=sizes and sizes.before,
        bytes=files and files.before,
        flops=flops and flops.before,
        quality=quality and quality.before,
        perplexity=quality and quality.perplexity and quality.perplexity.before,
        score=score and score.before,
    )
    if not (int8 := report.part(Int8)):
        return [dense]
    rise = int8.value - (dense.quality or 0.0) if int8.value is not None else None
    known = {"parameters": dense.parameters, "bytes": int8.file_bytes, "flops": dense.flops}
    return [dense, Point(budget=INT8, share=1.0, quality=int8.value, rise=rise, **known)]


def _point(budget: str, report: Report | None, failed: Mapping[str, str]) -> Point:
    """One budget, by its own report."""
    if report is None:
        return Point(budget=budget, failed=failed[budget])
    sizes, files = report.part(Parameters), report.part(FileBytes) or report.part(WeightBytes)
    flops, quality, score = report.part(Flops), report.part(Quality), report.part(Score)
    bits = None if report.part(FileBytes) else report.part(Quantization)
    model, ending, forecast = report.part(Model), report.part(Ending), report.part(Forecast)
    seconds = sum(ending.seconds.values()) if ending and ending.seconds else None
    return Point(
        budget=budget,
        keep=sizes and sizes.keep,
        share=sizes and sizes.after / sizes.before,
        parameters=sizes and sizes.after,
        bytes=bits.stored_bytes if bits else files and files.after,
        flops=flops and flops.after,
        quality=quality and quality.after,
        rise=None if quality is None else quality.after - (quality.before or 0.0),
        interval=quality and quality.nats and quality.nats.interval,
        perplexity=quality and quality.perplexity and quality.perplexity.after,
        score=score and score.after,
        score_interval=score and score.interval,
        seconds=forecast.seconds if forecast and report.part(Predicted) else seconds,
        out=model and model.out,
    )
