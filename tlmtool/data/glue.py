"""Tasks with labels: GLUE's (Wang et al. 2019), with the names of their columns, and the demo's."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A task with labels. `kind`: classification or regression; `labels`: names of the classes in
    the order of their ids; `metrics`: their mean is the score. `columns`: of GLUE's own file where
    it has no header; `texts`, `label`: names that the columns go by, GLUE's and the Hub's.
    `bounds`: the least and the largest figure, where there are such."""

    name: str
    kind: str
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    label: tuple[str, ...] = ("label",)
    columns: tuple[str, ...] | None = None
    bounds: tuple[float, float] | None = None


def _classes(
    name: str, labels: str, metrics: str, *texts: str, label: str = "label", **more: Any
) -> Task:
    columns = tuple(tuple(each.split("|")) for each in texts)
    names = ("classification", tuple(labels.split()), tuple(metrics.split()))
    return Task(name, *names, columns, tuple(label.split("|")), **more)


PAIR = ("sentence1", "sentence2")
ENTAILED = "entailment not_entailment"
_TASKS = (
    _classes(
        "cola",
        "unacceptable acceptable",
        "matthews",
        "sentence",
        columns=("source", "label", "star", "sentence"),
    ),
    _classes("sst2", "negative positive", "accuracy", "sentence"),
    _classes(
        "mrpc",
        "not_equivalent equivalent",
        "accuracy f1",
        "#1 String|sentence1",
        "#2 String|sentence2",
        label="Quality|label",
    ),
    Task(
        "stsb",
        "regression",
        (),
        ("pearson", "spearman"),
        tuple((n,) for n in PAIR),
        ("score", "label"),
        bounds=(0.0, 5.0),
    ),
    _classes("rte", ENTAILED, "accuracy", *PAIR),
    _classes("qnli", ENTAILED, "accuracy", "question", "sentence"),
    _classes(
        "qqp",
        "not_duplicate duplicate",
        "accuracy f1",
        "question1",
        "question2",
        label="is_duplicate|label",
    ),
    _classes(
        "mnli",
        "entailment neutral contradiction",
        "accuracy",
        "sentence1|premise",
        "sentence2|hypothesis",
        label="gold_label|label",
    ),
)
GLUE = {task.name: task for task in _TASKS}
GRAMMAR = _classes("grammar", "unacceptable acceptable", "matthews", "sentence")
