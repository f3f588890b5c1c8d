"""The figures of a report, under names that all reports share."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tlmtool.report.figures import words
from tlmtool.report.parts.complexity import Complexity
from tlmtool.report.parts.costs import FileBytes, Flops, Parameters, WeightBytes
from tlmtool.report.parts.ending import Ending, Predicted, Source
from tlmtool.report.parts.evaluation import Evaluation
from tlmtool.report.parts.evaluations import Evaluations, short
from tlmtool.report.parts.profiled import Profile, Profiled
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
    """A figure of a row. `examples`: what it was measured on; `data`: the same in words; `source`:
    the same where no report marks the examples; `seeds`: the scores of a study, by seed; `unit`:
    cells of other units are not compared; `alone`: nor is this one, as another says the same."""

    value: float
    better: str = "lower"
    examples: Examples | None = None
    data: str = ""
    seeds: Mapping[int, float] | None = None
    unit: str = ""
    what: str = ""
    alone: bool = False
    source: str = ""

    @property
    def mark(self) -> str:
        """What it was measured on; empty where that is not known."""
        return self.examples.sha256 if self.examples else self.source


def title_of(key: str) -> str:
    """A column in words: 'similarity spearman'."""
    return SIZES[key][0] if key in SIZES else words(key.replace(".", " ", 1))


def cells_of(report: Report) -> dict[str, Cell]:
    """All figures of a report that others may have too. A dry run spends nothing of its own."""
    found, cells = dict[str, float | None](), dict[str, Cell]()
    if sizes := report.part(Parameters):
        found |= {"keep": sizes.keep, "parameters": sizes.after}
    files = report.part(FileBytes) or report.part(WeightBytes)
    found["bytes"] = files.after if files else None
    if profile := report.part(Profile):
        cells = profiled(profile.models[0])
    if (scored := report.part(Evaluation)) and found["bytes"] is None:
        found["bytes"] = scored.models[0].file_bytes
    cells = {key: Cell(value) for key, value in found.items() if value is not None} | cells
    if flops := report.part(Flops):
        cells["flops"] = Cell(flops.after, unit=flops.note)
    cells |= _quality(report) | dict(_scores(report))
    ending = report.part(Ending)
    if cells and ending and not report.part(Predicted):
        unit = f"tlm {report.verb}"  # the time of one command is no share of another's
        cells["seconds"] = Cell(sum(ending.seconds.values()), unit=unit)
        peak = ending.peak_rss_bytes or ending.peak_memory_bytes
        cells |= {"memory": Cell(peak, unit=unit)} if peak else {}
    return cells


def profiled(model: Profiled) -> dict[str, Cell]:
    """The figures of a model that is profiled, at the shortest length."""
    first = min(model.runs, key=lambda run: run.seq_len)
    cells = {
        "parameters": Cell(model.parameters),
        "bytes": Cell(model.file_bytes or model.weight_bytes),
    }
    if first.latency_ms:
        unit = f"a forward pass of {first.batch} x {first.seq_len} tokens"
        cells["latency"] = Cell(first.latency_ms.median, unit=unit)
    return cells


def of_kernel(found: Complexity, name: str) -> dict[str, Cell]:
    """The figures of an attention kernel alone, at the longest text."""
    last = max(found.kernels[name].runs, key=lambda run: run.seq_len)
    unit = f"attention alone, at N = {last.seq_len:,}: {found.called()}"
    return {
        "flops": Cell(last.flops, unit=unit),
        "latency": Cell(last.latency_ms.median, unit=unit),
    }


def _quality(report: Report) -> dict[str, Cell]:
    quality = report.part(Quality)
    if quality is None:
        return {}
    cell = Cell(quality.after, "lower", quality.examples, "held-out text", what=quality.what)
    found = {quality.name: cell}
    if quality.perplexity and quality.perplexity.after is not None:
        what = "e to the power of the loss"
        mark = quality.examples
        found["perplexity"] = Cell(quality.perplexity.after, examples=mark, what=what, alone=True)
    return found


def _scores(report: Report) -> Iterator[tuple[str, Cell]]:
    """(task.metric@data, score) of everything that was scored; the latest of equal ones."""
    seen: set[str] = set()
    for task, metric, loss, cell in _scored(report):
        mark = cell.examples.sha256 if cell.examples else f"{task} {cell.data}"
        if mark in seen:
            continue
        seen.add(mark)
        if metric == "perplexity" and loss is not None:  # what is left out has the loss
            yield key_of(task, "loss", cell.data), cell._replace(value=loss, what="mean NLL, nats")
            cell = cell._replace(alone=True)
        yield key_of(task, metric, cell.data), cell


def key_of(task: str, metric: str, data: str) -> str:
    """The name of a score before `named_alone`: 'similarity.spearman@test.csv'."""
    return f"{task}.{metric}@{data}".replace(" ", "_")


Scored = tuple[str, str, float | None, Cell]  # task, metric, loss, score


def _scored(report: Report) -> Iterator[Scored]:
    later, now = report.part(Evaluations), report.part(Evaluation)
    source = report.part(Source)
    data = short(source.data) if source else ""
    for each in later.evaluations if later else ():
        m = each.model
        cell = Cell(m.score, each.better, m.examples, short(each.data), what=each.what)
        yield each.task, each.metric, m.loss, cell
    if now:
        m = now.models[0]
        cell = Cell(m.score, now.better, m.examples, data, what=now.what)
        yield now.task, now.metric, m.loss, cell
    if score := report.part(Score):
        cell = Cell(score.after, score.better, score.examples, short(score.data), what=score.what)
        yield score.task, score.metric, None, cell
    scores, training = report.part(Scores), report.part(Training)
    if scores and training:
        end, metric = scores.after, METRICS.get(scores.name)
        what = metric.words if metric else ""
        cell = Cell(end.score, scores.better, end.examples, data, what=what)
        yield training.task, scores.name, end.loss, cell
