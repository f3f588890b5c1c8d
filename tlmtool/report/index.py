"""The scores of a checkpoint as the Hugging Face Hub lists them: `model-index` in its card."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

from tlmtool.report.layout import Document
from tlmtool.report.parts.evaluations import Evaluations, short
from tlmtool.report.parts.score import Score
from tlmtool.tasks.table import TASKS

TYPES = {  # {kind of a task: what the Hub calls it}; a kind that is missing is not listed
    "similarity": "sentence-similarity",
    "classification": "text-classification",
    "regression": "text-classification",
    "translation": "translation",
}
TYPES_OF = {"mlm": "fill-mask", "clm": "text-generation", "perplexity": "text-generation"}
METRICS = {  # {metric: what the Hub calls it}, where that is another name
    "spearman": "spearmanr",
    "pearson": "pearsonr",
    "matthews": "matthews_correlation",
    "BLEU": "bleu",
}
Figure = tuple[str, float]


def model_index(report: Document, name: str) -> list[dict[str, Any]]:
    """The scores of a report in the layout of `model-index`; empty where it has none."""
    results = []
    for task, data, figures in _scores(report):
        row = TASKS.get(task)
        kind = TYPES_OF.get(task) or (TYPES.get(row.kind) if row else None)
        if kind is None or not figures:
            continue
        metrics = [
            {"type": METRICS.get(metric, metric), "value": round(value, 4), "name": metric}
            for metric, value in figures
        ]
        dataset = {"type": short(data), "name": short(data)}
        results.append(
            {"task": {"type": kind, "name": task}, "dataset": dataset, "metrics": metrics}
        )
    return [{"name": name, "results": results}] if results else []


def renewed(kept: Any, before: Document, after: Document, name: str) -> list[Any]:
    """A `model-index` that someone may have edited, with the scores of one report in place of those
    of an earlier one. What the earlier one did not write stays."""
    first, *others = kept if isinstance(kept, list) and kept else [{}]
    first = first if isinstance(first, dict) else {}
    name = str(first.get("name") or name)
    own = [each for part in model_index(before, name) for each in part["results"]]
    new = [each for part in model_index(after, name) for each in part["results"]]
    held = first.get("results") if isinstance(first.get("results"), list) else []
    again = [_of(each) for each in new]
    theirs = [each for each in held or () if each not in own and _of(each) not in again]
    results = [*new, *theirs]
    return [{"name": name, "results": results}, *others] if results else others


def _of(result: Any) -> tuple[Any, ...]:
    """The task and the data of a result, however it is written."""
    parts = [result.get(key) if isinstance(result, dict) else None for key in ("task", "dataset")]
    return tuple(each.get("name") if isinstance(each, dict) else each for each in parts)


def _scores(report: Document) -> Iterator[tuple[str, str, list[Figure]]]:
    """(task, data, its metrics) of each score of the checkpoint."""
    later = report.part(Evaluations)
    for each in later.evaluations if later else ():
        yield each.task, each.data, _each(each.metric, each.model.score, each.model.metrics)
    known = {(each.task, each.data) for each in later.evaluations} if later else set()
    own = report.part(Score)
    if own and (own.task, own.data) not in known:
        several = {name: each.after for name, each in (own.metrics or {}).items()}
        yield own.task, own.data, _each(own.metric, own.after, several)


def _each(metric: str, score: float, several: dict[str, float]) -> list[Figure]:
    """The metrics of a score that are defined. The mean of several is none of the Hub's."""
    found = ({} if " and " in metric else {metric: score}) | several
    return [(name, value) for name, value in found.items() if isfinite(value)]
