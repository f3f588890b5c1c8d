"""Labelled examples: GLUE's tasks as GLUE and the Hub lay them out, and tables of one's own.

A GLUE task is read from a folder of GLUE's tsv files (`train.tsv`, `dev.tsv`; of mnli
`dev_matched.tsv`; quotes are text), from tables with the Hub's column names, or from the Hub's
`glue`. `classification` and `regression` are read from a folder with `train` and `dev` (or
`validation`, `valid`, `val`) in csv, tsv, jsonl or parquet, from one such file, of which every
tenth row becomes the development split, or from a data set of the Hub.
"""

import math
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from tlmtool.data import grammar
from tlmtool.data.glue import GLUE, GRAMMAR, PAIR, Task
from tlmtool.data.tables import SUFFIXES, Row, rows
from tlmtool.failure import MissingDependency, NotLoadable, Usage
from tlmtool.schema_training import LABELLED

DEV = ("dev", "validation", "valid", "val", "dev_matched", "validation_matched")
TENTH = 10


class Example(NamedTuple):
    """A text, perhaps a second one, and the id of its class or its figure."""

    first: str
    second: str | None
    label: int | float


class Splits(NamedTuple):
    """What a task is learned from and scored on; `source` says where it came from."""

    task: Task
    train: list[Example]
    dev: list[Example]
    source: str


TEXT, SECOND, LABEL = ("text", "sentence", "sentence1"), ("sentence2",), ("label", "score")


def splits(
    task: str,
    data: str | Path | None,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    classes: tuple[str, ...] = (),
) -> Splits:
    """The training and development examples of a task. `text`, `pair`, `label`: columns; `classes`
    as in `examples`.

    Raises Usage for an unknown task or column, NotLoadable for data that is missing or malformed.
    """
    if _known(task) == "grammar":
        found = [Example(sentence, None, label) for sentence, label in grammar.sentences()]
        dev = found[TENTH - 1 :: TENTH]
        train = [each for i, each in enumerate(found) if i % TENTH != TENTH - 1]
        return Splits(GRAMMAR, train, dev, "an acceptability task that tlm generates by a grammar")
    train, dev, source = _tables(task, data)
    given = (text, pair, label)
    form = _form(task, given, train, classes)
    made = [_examples(form, given, part) for part in (train, dev) if part]
    if len(made) == 1:
        whole = made[0]
        made = [
            [e for i, e in enumerate(whole) if i % TENTH != TENTH - 1],
            whole[TENTH - 1 :: TENTH],
        ]
        source += ", every tenth row set aside for development"
    for name, part in zip(("training", "development"), made, strict=True):
        if not part:
            raise NotLoadable(f"the {name} split of {source} is empty")
    return Splits(form, *made, source)


def examples(
    task: str,
    data: str | Path | None,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    classes: tuple[str, ...] = (),
) -> tuple[Task, list[Example]]:
    """What a model is scored on: the development split, or all of one file.

    `classes`: those that the model of a `classification` knows, by id; of themselves the file's.
    """
    path = Path(data).expanduser() if data is not None else None
    if _known(task) == "grammar" or path is None or not path.is_file():
        found = splits(task, data, text=text, pair=pair, label=label, classes=classes)
        return found.task, found.dev
    given, read = (text, pair, label), _rows(task, path)
    form = _form(task, given, read, classes)
    return form, _examples(form, given, read)


def _known(task: str) -> str:
    if task not in LABELLED:
        near = get_close_matches(task, LABELLED, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(LABELLED)}"
        raise Usage(f"unknown task {task!r}: {hint}")
    return task


# ---- files to rows


def _tables(task: str, data: str | Path | None) -> tuple[list[Row], list[Row], str]:
    """(training rows, development rows or none, where they came from)"""
    path = Path(data).expanduser() if data is not None else None
    if path is not None and path.is_file():
        return _rows(task, path), [], str(data)
    if path is not None and path.is_dir():
        train, dev = _named(path, ("train",)), _named(path, DEV)
        if train is None or dev is None:
            lacks = "train" if train is None else "dev"
            raise NotLoadable(
                f"{path} has no {lacks} file: one of {lacks}{f', {lacks}'.join(SUFFIXES)}"
            )
        return _rows(task, train), _rows(task, dev), str(data)
    if path is not None and (path.suffix or str(data).count("/") > 1):
        raise NotLoadable(f"{data} does not exist: name a folder or a file of examples")
    return _from_hub(task, str(data) if data is not None else "nyu-mll/glue")


def _named(folder: Path, names: tuple[str, ...]) -> Path | None:
    files = (folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _rows(task: str, path: Path) -> list[Row]:
    """The rows of a file, those without a header by the columns that GLUE gives them."""
    form = GLUE.get(task)
    columns = form.columns if form and path.suffix.lower() == ".tsv" else None
    if task == "stsb" and path.suffix.lower() == ".csv":
        columns = (*PAIR, "score")
    found = rows(path, columns)
    first = set(map(str, found[0][1].values()))
    return found[1:] if columns and set(columns) & first >= {"sentence1"} else found


def _from_hub(task: str, name: str) -> tuple[list[Row], list[Row], str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            f"{name} is no file here; if it is a data set of the Hub, the package `datasets` is "
            "needed (pip install datasets)"
        ) from error
    try:
        loaded: Any = datasets.load_dataset(name, *([task] if name.endswith("glue") else []))
    except Exception as error:  # the library and the network raise too many kinds to name
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise NotLoadable(f"{name} cannot be loaded by `datasets`: {reason}") from error
    if "train" not in loaded:
        raise NotLoadable(f"{name} has no split train: it has {', '.join(loaded)}")
    dev = next((split for split in DEV if split in loaded), None)

    def read(split: str) -> list[Row]:
        return [(f"row {i} of {name}, {split}", dict(r)) for i, r in enumerate(loaded[split], 1)]

    return read("train"), read(dev) if dev else [], f"{name} of the Hub"


# ---- rows to examples


def _form(
    task: str, given: tuple[str | None, ...], read: list[Row], classes: tuple[str, ...]
) -> Task:
    """The task; of one's own, its classes are those of the training rows."""
    if task in GLUE:
        return GLUE[task]
    if task == "regression":
        return Task(task, task, (), ("pearson", "spearman"))
    if classes:
        return Task(task, task, classes, ("accuracy",))
    column = _column(read[0], given[2], LABEL, "label")
    names = {str(row[column]).strip() for _, row in read if row[column] is not None}
    if len(names) < 2:
        raise NotLoadable(f"{read[0][0]} and below: {len(names)} classes in {column}, 2 are needed")
    numbers = all(name.isdecimal() for name in names)
    labels = sorted(names, key=int if numbers else str)
    if numbers and int(labels[-1]) < 10_000:
        labels = [str(i) for i in range(int(labels[-1]) + 1)]
    return Task(task, task, tuple(labels), ("accuracy",))


def _column(row: Row, asked: str | None, names: tuple[str, ...], what: str) -> str:
    """The name of a column: as asked for, or the first known one that is there."""
    where, there = row
    found = next((n for n in ([asked] if asked else names) if n in there), None)
    if found is None:
        missed = asked or " or ".join(names)
        raise NotLoadable(
            f"{where.rpartition(' of ')[2]} has no column {missed}: it has {', '.join(there)}; "
            f"--{what}-column names another"
        )
    return found


def _examples(form: Task, given: tuple[str | None, ...], read: list[Row]) -> list[Example]:
    text, pair, label = given
    seconds: tuple[str, ...] = form.texts[1] if len(form.texts) > 1 else ()
    first = _column(read[0], text, form.texts[0] if form.texts else TEXT, "text")
    if not form.texts and text is None and first == PAIR[0]:
        seconds = SECOND
    second = None
    if pair or len(form.texts) > 1 or (seconds and seconds[0] in read[0][1]):
        second = _column(read[0], pair, seconds, "pair")
    target = _column(read[0], label, form.label if form.name in GLUE else LABEL, "label")
    turn = _figure if form.kind == "regression" else _class_of(form)
    made = []
    for where, row in read:
        if form.name == "mnli" and row[target] in ("-", -1):
            continue  # the annotators did not agree
        texts = [row.get(first), row.get(second) if second else None]
        if not isinstance(texts[0], str) or (second and not isinstance(texts[1], str)):
            raise NotLoadable(f"{where}: {first if not texts[0] else second} holds no text")
        made.append(Example(*texts, turn(where, row.get(target))))
    return made


def _figure(where: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise NotLoadable(f"{where}: the label is {str(value)[:40]!r}, not a finite number")
    return found


def _class_of(form: Task) -> Callable[[str, Any], int]:
    """(where, raw label) -> id: by name, or by its number."""
    ids = {name: i for i, name in enumerate(form.labels)}
    ids = {str(i): i for i in range(len(form.labels))} | ids

    def turn(where: str, value: Any) -> int:
        name = str(int(value) if isinstance(value, bool | float) else value).strip()
        if name not in ids:
            raise NotLoadable(
                f"{where}: the label {name[:40]!r} is out of range: task {form.name} has "
                f"{', '.join(form.labels[:9])}{' ...' if len(form.labels) > 9 else ''}"
            )
        return ids[name]

    return turn
