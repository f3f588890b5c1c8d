"""The figures of a report, under names that all reports share."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tlmtool.report.figures import words
from tlmtool.report.parts.costs import FileBytes, Flops, Parameters, WeightBytes
from tlmtool.report.parts.ending import Ending, Source
from tlmtool.report.parts.evaluation import Evaluation
from tlmtool.report.parts.evaluations import Evaluations, short
from tlmtool.report.parts.profiled import Profile
from tlmtool.report.parts.quality import Quality
from tlmtool.report.parts.score import Score
from tlmtool.report.parts.training import Scores, Training
from tlmtool.report.pieces import Examples
from tlmtool.report.report import Report
from tlmtool.tasks.metrics import METRICS

SIZES = {  # of every row: its title and unit
    "keep": ("keep", ""),
    "parameters": ("parameters", ""),
    "bytes": ("bytes", "B"),
    "flops": ("FLOPs", "FLOPs"),
    "latency": ("latency", "ms"),
    "seconds": ("seconds", "s"),
    "memory": ("memory", "B"),
}


class Cell(NamedTuple):
    """A figure of a row. `examples`: what it was measured on; `data`: the same in words; `seeds`:
    the scores of a study, by seed; `unit`: cells of other units are not compared."""

    value: float
    better: str = "lower"
    examples: Examples | None = None
    data: str = ""
    seeds: Mapping[int, float] | None = None
    unit: str = ""
    what: str = ""


def title_of(key: str) -> str:
    """A column in words: 'similarity spearman'."""
    return SIZES[key][0] if key in SIZES else words(key.replace(".", " ", 1))


def cells_of(report: Report) -> dict[str, Cell]:
    """All figures of a report that others may have too."""
    found: dict[str, float | None] = {}
    if sizes := report.part(Parameters):
        found |= {"keep": sizes.keep, "parameters": sizes.after}
    files = report.part(FileBytes) or report.part(WeightBytes)
    found["bytes"] = files.after if files else None
    if profile := report.part(Profile):
        found |= _profiled(profile)
    if (scored := report.part(Evaluation)) and found["bytes"] is None:
        found["bytes"] = scored.models[0].file_bytes
    cells = {key: Cell(value) for key, value in found.items() if value is not None}
    if flops := report.part(Flops):
        cells["flops"] = Cell(flops.after, unit=flops.note)
    cells |= _quality(report) | dict(_scores(report))
    ending = report.part(Ending)
    if cells and ending:
        cells["seconds"] = Cell(sum(ending.seconds.values()))
        peak = ending.peak_rss_bytes or ending.peak_memory_bytes
        cells |= {"memory": Cell(peak)} if peak else {}
    return cells


def _profiled(profile: Profile) -> dict[str, float | None]:
    """Of the model that is profiled last, at the shortest length."""
    model = profile.models[-1]
    first = model.runs[0]
    latency = first.latency_ms.median if first.latency_ms else None
    return {
        "parameters": model.parameters,
        "bytes": model.file_bytes or model.weight_bytes,
        "latency": latency,
    }


def _quality(report: Report) -> dict[str, Cell]:
    quality = report.part(Quality)
    if quality is None:
        return {}
    cell = Cell(quality.after, "lower", quality.examples, "held-out text", what=quality.what)
    found = {quality.name: cell}
    if quality.perplexity and quality.perplexity.after is not None:
        found["perplexity"] = Cell(quality.perplexity.after, what="e to the power of the loss")
    return found


def _scores(report: Report) -> Iterator[tuple[str, Cell]]:
    """(task.metric@data, score) of everything that was scored, the latest of the same first."""
    seen: set[str] = set()
    for task, metric, better, data, what, value, loss, examples in _scored(report):
        key = f"{task}.{metric.replace(' ', '_')}"
        mark = examples.sha256 if examples else f"{task} {data}"
        if mark in seen:
            continue
        seen.add(mark)
        at = short(data).replace(" ", "_")
        cell = Cell(value, better, examples, short(data), what=what)
        if metric == "perplexity" and loss is not None:  # its examples have the loss
            yield f"{task}.loss@{at}", cell._replace(value=loss, what="mean NLL in nats")
            cell = cell._replace(examples=None)
        yield f"{key}@{at}", cell


def _scored(report: Report) -> Iterator[tuple]:
    later, now = report.part(Evaluations), report.part(Evaluation)
    source = report.part(Source)
    data = source.data if source else ""
    for each in later.evaluations if later else ():
        m = each.model
        head = (each.task, each.metric, each.better, each.data, each.what)
        yield *head, m.score, m.loss, m.examples
    if now:
        m = now.models[0]
        yield now.task, now.metric, now.better, data, now.what, m.score, m.loss, m.examples
    if score := report.part(Score):
        head = (score.task, score.metric, score.better, score.data, score.what)
        yield *head, score.after, None, score.examples
    scores, training = report.part(Scores), report.part(Training)
    if scores and training:
        s, words_ = scores.after, METRICS.get(scores.name)
        what = words_.words if words_ else ""
        head = (training.task, scores.name, scores.better, data, what)
        yield *head, s.score, s.loss, s.examples
