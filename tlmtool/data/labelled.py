"""Labelled examples: GLUE's tasks as GLUE and the Hub lay them out, and tables of one's own.

A GLUE task is read from a folder of GLUE's tsv files (`train.tsv`, `dev.tsv`; of mnli
`dev_matched.tsv`; quotes are text), from tables with the Hub's column names, or from the Hub's
`glue`. `classification` and `regression` are read from a folder with `train` and `dev` (or
`validation`, `valid`, `val`) in csv, tsv, jsonl or parquet, from one such file, of which every
tenth row becomes the development split, or from a data set of the Hub.
"""

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from tlmtool.data.labels import class_name, class_names, turn_of
from tlmtool.data.tables import DEV, SUFFIXES, TRAIN, Row, few, named, rows
from tlmtool.data.text import place
from tlmtool.failure import MissingDependency, NotLoadable, Usage
from tlmtool.recipe.rules import known_task
from tlmtool.tasks.table import LABELLED, PAIR, TASKS, Task

TENTH = 10
ASIDE = ", every tenth row set aside for development"
TEXT, SECOND = ("text", "sentence", "sentence1"), ("sentence2",)

Columns = tuple[str | None, str | None, str | None]  # names asked for: text, second text, label


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

    Raises Usage for an unknown task, NotLoadable for data that is missing or malformed.
    """
    row = TASKS[known_task(task, LABELLED)]
    if row.made:
        found = [Example(sentence, None, label) for sentence, label in resolve_name(row.made)()]
        return Splits(row, *tenth_aside(found, row.source), row.source)
    given = (text, pair, label)
    train, dev, source = read_tables(task, data, given)
    form = _form(task, given, train, classes)
    learned = _examples(form, given, train)
    if dev is not None:
        return Splits(form, learned, _examples(form, given, dev), source)
    return Splits(form, *tenth_aside(learned, source), source + ASIDE)


def tenth_aside(whole: list, source: str) -> tuple[list, list]:
    """(to learn on, every tenth for development); raises NotLoadable for fewer than ten."""
    if len(whole) < TENTH:
        raise NotLoadable(
            f"{source} holds {len(whole)} examples: {TENTH} are needed, as every tenth is set "
            "aside for development"
        )
    return [e for i, e in enumerate(whole, 1) if i % TENTH], whole[TENTH - 1 :: TENTH]


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
    path = place(data) if data is not None else None
    if TASKS[known_task(task, LABELLED)].made or path is None or not path.is_file():
        found = splits(task, data, text=text, pair=pair, label=label, classes=classes)
        return found.task, found.dev
    given = (text, pair, label)
    read = _rows(task, path, given)
    form = _form(task, given, read, classes)
    return form, _examples(form, given, read)


# ---- files to rows


def read_tables(
    task: str, data: str | Path | None, given: Columns, configs: tuple[str, ...] = ()
) -> tuple[list[Row], list[Row] | None, str]:
    """(training rows, development rows if they lie apart, where they came from); `configs`: names
    that the part of a data set of the Hub may have."""
    path = place(data) if data is not None else None
    if path is not None and path.is_file():
        return _rows(task, path, given), None, str(data)
    if path is not None and path.is_dir():
        train, dev = named(path, TRAIN), named(path, DEV)
        if train is None or dev is None:
            lacks = "train" if train is None else "dev"
            raise NotLoadable(
                f"{path} has no {lacks} file: one of {lacks}{f', {lacks}'.join(SUFFIXES)}"
            )
        return _rows(task, train, given), _rows(task, dev, given), str(data)
    if path is not None and (path.suffix or str(data).count("/") > 1):
        raise NotLoadable(f"{data} does not exist: name a folder or a file of examples")
    hub = TASKS[task].hub
    if data is None and hub is None:
        raise Usage(f"task {task} needs --data: a folder or a file of examples, or a data set")
    return _from_hub(task, str(hub if data is None else data), configs)


def _rows(task: str, path: Path, given: Columns) -> list[Row]:
    """The rows of a file, those without a header by the columns that GLUE gives them."""
    form = TASKS[task]
    columns = {".tsv": form.columns, ".csv": form.csv}.get(path.suffix.lower())
    header = (asked or known[0] for asked, known in zip(given, form.texts, strict=False))
    return rows(path, columns, tuple(header))


def _from_hub(
    task: str, name: str, configs: tuple[str, ...]
) -> tuple[list[Row], list[Row] | None, str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            f"{name} is no file here; if it is a data set of the Hub, the package `datasets` is "
            "needed (pip install datasets)"
        ) from error
    try:
        part = [task] if name.endswith("glue") else []
        if configs:
            there = datasets.get_dataset_config_names(name)
            part = [each for each in configs if each in there][:1]
        loaded: Any = datasets.load_dataset(name, *part)
    except Exception as error:  # the library and the network raise too many kinds to name
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise NotLoadable(f"{name} cannot be loaded by `datasets`: {reason}") from error
    if "train" not in loaded:
        raise NotLoadable(f"{name} has no split train: it has {', '.join(loaded)}")
    dev = next((split for split in DEV if split in loaded), None)

    def read(split: str) -> list[Row]:
        if not len(loaded[split]):
            raise NotLoadable(f"the split {split} of {name} is empty: it holds no row of data")
        return [(f"row {i} of {name}, {split}", dict(r)) for i, r in enumerate(loaded[split], 1)]

    return read("train"), read(dev) if dev else None, f"{name} of the Hub"


# ---- rows to examples


def _form(task: str, given: Columns, read: list[Row], classes: tuple[str, ...]) -> Task:
    """The task; of one's own, its classes are those of the training rows."""
    form = TASKS[task]
    if form.labels or form.kind == "regression":
        return form
    if not classes:
        column = column_of(read, given[2], form.label, "label")
        labels = (class_name(where, _label(where, row, column)) for where, row in read)
        classes = class_names(f"{file_of(read)}, column {column}", labels)
    return replace(form, labels=classes)


def _examples(form: Task, given: Columns, read: list[Row]) -> list[Example]:
    text, pair, label = given
    seconds: tuple[str, ...] = form.texts[1] if len(form.texts) > 1 else ()
    first = column_of(read, text, form.texts[0] if form.texts else TEXT, "text")
    if not form.texts and text is None and first == PAIR[0] and SECOND[0] in columns_of(read):
        seconds = SECOND
    second = column_of(read, pair, seconds, "pair") if pair or seconds else None
    target = column_of(read, label, form.label, "label")
    turn = turn_of(form)
    made = []
    for where, row in read:
        if row.get(target) in form.unsure:
            continue
        other = text_of(where, row, second) if second else None
        found = turn(where, _label(where, row, target))
        made.append(Example(text_of(where, row, first), other, found))
    if not made:
        raise NotLoadable(f"{file_of(read)} is empty: every label is '-', no agreement")
    return made


def file_of(read: list[Row]) -> str:
    """The file, or split, that rows came from."""
    return read[0][0].partition(" of ")[2]


def columns_of(read: list[Row]) -> list[str]:
    """The names of the columns that any row has."""
    return list(dict.fromkeys(name for _, row in read for name in row))


def column_of(read: list[Row], asked: str | None, names: tuple[str, ...], what: str) -> str:
    """The name of a column: as asked for, or the first known one that is there."""
    there = columns_of(read)
    found = next((n for n in ([asked] if asked else names) if n in there), None)
    if found is None:
        missed = f"{asked}, which --{what}-column names" if asked else " or ".join(names)
        other = "" if asked else f"; --{what}-column names another"
        raise NotLoadable(f"{file_of(read)} has no column {missed}: it has {few(there)}{other}")
    return found


def text_of(where: str, row: dict[str, Any], column: str) -> str:
    """The text of a row in a column; raises NotLoadable, with `where`, for what is none."""
    found = row.get(column)
    if not isinstance(found, str):
        but = "" if found is None else f" but {str(found)[:40]}"
        raise NotLoadable(f"{where}: column {column} holds no text{but}")
    return found


def _label(where: str, row: dict[str, Any], column: str) -> Any:
    found = row.get(column)
    if found is None or (isinstance(found, str) and not found.strip()):
        raise NotLoadable(f"{where} has no label: column {column} is empty")
    return found
