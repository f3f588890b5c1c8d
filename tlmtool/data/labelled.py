"""Labelled examples: GLUE's tasks as GLUE and the Hub lay them out, and tables of one's own.

A GLUE task is read from a folder of GLUE's tsv files (`train.tsv`, and `dev.tsv` or
`dev_matched.tsv`; quotes are text), from tables with the Hub's column names, or from the Hub's
`glue`. `classification` and `regression` are read from a folder with `train` and `dev` (or
`validation`, `valid`, `val`) in csv, tsv, jsonl or parquet, or from a data set of the Hub. They are
also read from one such file, of which every tenth row becomes the development split. `similarity`
takes the same layouts: sentence1, sentence2 and a score in each row.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from tlmtool.data.labels import class_name, class_names, reader_of
from tlmtool.data.rows import (
    ASIDE,
    Columns,
    column_of,
    columns_of,
    file_of,
    read_file,
    read_tables,
    tenth_aside,
    text_of,
)
from tlmtool.data.tables import Row
from tlmtool.data.text import place
from tlmtool.failure import NotLoadable
from tlmtool.recipe.rules import known_task
from tlmtool.tasks.table import LABELLED, PAIR, SIMILARITY, TASKS, Task

READ = (*LABELLED, SIMILARITY)  # tasks whose examples are rows with a label or a score
TEXT, SECOND = ("text", "sentence", "sentence1"), ("sentence2",)


class Example(NamedTuple):
    """A text, perhaps a second one, and the id of its class or its figure."""

    first: str
    second: str | None
    label: int | float


Pair = tuple[str, str, float]  # two sentences and how similar they are


class Splits(NamedTuple):
    """Examples to train on and to develop on; `source` says where they came from."""

    task: Task
    train: list[Example]
    dev: list[Example]
    source: str


def splits(
    task: str,
    data: str | Path | None,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    classes: tuple[str, ...] = (),
    prefer: tuple[str, ...] = (),
) -> Splits:
    """The training and development examples of a task. `text`, `pair` and `label` name columns.

    `classes` are those of a `classification`, as in `examples`. `prefer`: classes that it has if
    all labels are among them. Raises Usage for an unknown task, and NotLoadable for data that are
    missing or malformed.
    """
    row, given = TASKS[known_task(task, READ)], (text, pair, label)
    if row.made:
        found = [Example(sentence, None, label) for sentence, label in resolve_name(row.made)()]
        return Splits(row, *tenth_aside(found, row.source), row.source)
    read = read_tables(task, data, given)
    if prefer and not row.labels:
        with suppress(NotLoadable):
            return _splits(row, given, *read, prefer)
    return _splits(row, given, *read, classes)


def _splits(
    task: Task,
    given: Columns,
    train: list[Row],
    dev: list[Row] | None,
    source: str,
    classes: tuple[str, ...],
) -> Splits:
    """The examples in rows of tables."""
    task = _with_classes(task, given, train, classes)
    learned = _examples(task, given, train)
    if dev is not None:
        return Splits(task, learned, _examples(task, given, dev), source)
    return Splits(task, *tenth_aside(learned, source), source + ASIDE)


def examples(
    task: str,
    data: str | Path | None,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    classes: tuple[str, ...] = (),
) -> tuple[Task, list[Example]]:
    """What a model is scored on: the development split, or all of a single file.

    `classes`: those that the model of a `classification` knows, by id; by default those of the
    file.
    """
    path, row = place(data) if data is not None else None, TASKS[known_task(task, READ)]
    if row.made or path is None or not path.is_file():
        found = splits(task, data, text=text, pair=pair, label=label, classes=classes)
        return found.task, found.dev
    given = (text, pair, label)
    read = read_file(task, path, given)
    row = _with_classes(row, given, read, classes)
    return row, _examples(row, given, read)


def sentence_pairs(
    data: str | Path | None,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
) -> list[Pair]:
    """What similarity is scored on: the development split, or all of a single file. Raises
    NotLoadable as `examples` does, and for a single pair."""
    return pairs_of(examples(SIMILARITY, data, text=text, pair=pair, label=label)[1], str(data))


def pairs_of(found: list[Example], source: str) -> list[Pair]:
    """Examples of two texts and a figure as pairs. Raises NotLoadable where there are too few for a
    correlation."""
    if len(found) < 2:
        raise NotLoadable(f"{source} gives one sentence pair to score: at least 2 are needed")
    return [(first.strip(), (second or "").strip(), float(score)) for first, second, score in found]


def _with_classes(task: Task, given: Columns, read: list[Row], classes: tuple[str, ...]) -> Task:
    """The task; without classes of its own, it gets those given, or else those of the rows."""
    if task.labels or task.kind != "classification":
        return task
    if not classes:
        column = column_of(read, given[2], task.label, "label")
        labels = (class_name(where, _label(where, row, column)) for where, row in read)
        classes = class_names(f"{file_of(read)}, column {column}", labels)
    return replace(task, labels=classes)


def _examples(task: Task, given: Columns, read: list[Row]) -> list[Example]:
    text, pair, label = given
    seconds: tuple[str, ...] = task.texts[1] if len(task.texts) > 1 else ()
    first = column_of(read, text, task.texts[0] if task.texts else TEXT, "text")
    if not task.texts and text is None and first == PAIR[0] and SECOND[0] in columns_of(read):
        seconds = SECOND
    second = column_of(read, pair, seconds, "pair") if pair or seconds else None
    target = column_of(read, label, task.label, "label")
    id_or_figure = reader_of(task)
    made = []
    for where, row in read:
        if row.get(target) in task.unsure:
            continue
        other = text_of(where, row, second) if second else None
        found = id_or_figure(where, _label(where, row, target))
        made.append(Example(text_of(where, row, first), other, found))
    if not made:
        raise NotLoadable(f"{file_of(read)} is empty: every label is '-', no agreement")
    return made


def _label(where: str, row: dict[str, Any], column: str) -> Any:
    found = row.get(column)
    if found is None or (isinstance(found, str) and not found.strip()):
        raise NotLoadable(f"{where} has no label: column {column} is empty")
    return found
