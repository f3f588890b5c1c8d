"""Rows of examples: of a file, of a folder with train and development files, or of the Hub."""

from pathlib import Path
from typing import Any

from tlmtool.data import hub
from tlmtool.data.tables import DEV, SUFFIXES, TRAIN, Row, few, rows, split_file
from tlmtool.data.text import place
from tlmtool.failure import NotLoadable, Usage
from tlmtool.tasks.table import TASKS

TENTH = 10  # of a single file, every tenth row is for development; fewer means more of them
ASIDE = ", every tenth row set aside for development"

Columns = tuple[str | None, str | None, str | None]  # names asked for: text, second text, label


def read_tables(
    task: str, data: str | Path | None, given: Columns, configs: tuple[str, ...] = ()
) -> tuple[list[Row], list[Row] | None, str]:
    """(training rows, development rows if they lie apart, where they came from). `configs`: the
    names that the part of a data set of the Hub may have."""
    path = place(data) if data is not None else None
    if path is not None and path.is_file():
        return read_file(task, path, given), None, str(data)
    if path is not None and path.is_dir():
        train, dev = split_file(path, TRAIN), split_file(path, DEV)
        if train is None or dev is None:
            lacks = "train" if train is None else "dev"
            raise NotLoadable(
                f"{path} has no {lacks} file: one of {lacks}{f', {lacks}'.join(SUFFIXES)}"
            )
        return read_file(task, train, given), read_file(task, dev, given), str(data)
    if path is not None and (path.suffix or str(data).count("/") > 1):
        raise NotLoadable(f"{data} does not exist: name a folder or a file of examples")
    published = TASKS[task].hub
    if data is None and published is None:
        raise Usage(f"task {task} needs --data: a folder or a file of examples, or a data set")
    return _from_hub(task, str(published if data is None else data), configs)


def read_file(task: str, path: Path, given: Columns) -> list[Row]:
    """The rows of a file. Without a header, its columns are those that GLUE gives them."""
    row = TASKS[task]
    columns = {".tsv": row.columns, ".csv": row.csv}.get(path.suffix.lower())
    header = (asked or known[0] for asked, known in zip(given, row.texts, strict=False))
    return rows(path, columns, tuple(header))


def _from_hub(
    task: str, name: str, configs: tuple[str, ...]
) -> tuple[list[Row], list[Row] | None, str]:
    part = [task] if name.endswith("glue") else []
    loaded = hub.load(name, *part, configs=configs)
    if "train" not in loaded:
        raise NotLoadable(f"{name} has no split train: it has {', '.join(loaded)}")
    dev = next((split for split in DEV if split in loaded), None)

    def read(split: str) -> list[Row]:
        if not len(loaded[split]):
            raise NotLoadable(f"the split {split} of {name} is empty: it holds no row of data")
        return [(f"row {i} of {name}, {split}", dict(r)) for i, r in enumerate(loaded[split], 1)]

    return read("train"), read(dev) if dev else None, f"{name} of the Hub"


def tenth_aside(whole: list, source: str) -> tuple[list, list]:
    """(rows to train on, every tenth row, to develop on). Raises NotLoadable for fewer than ten."""
    if len(whole) < TENTH:
        raise NotLoadable(
            f"{source} holds {len(whole)} examples: {TENTH} are needed, as every tenth is set "
            "aside for development"
        )
    return [e for i, e in enumerate(whole, 1) if i % TENTH], whole[TENTH - 1 :: TENTH]


def file_of(read: list[Row]) -> str:
    """The file, or split, that rows came from."""
    return read[0][0].partition(" of ")[2]


def columns_of(read: list[Row]) -> list[str]:
    """The names of the columns that any row has."""
    return list(dict.fromkeys(name for _, row in read for name in row))


def column_of(read: list[Row], asked: str | None, names: tuple[str, ...], what: str) -> str:
    """The name of a column: the one that is asked for, or the first known one that is there. Of the
    known ones, the case does not matter."""
    there = columns_of(read)
    lower = {name.lower(): name for name in reversed(there)}
    known = [n if n in there else lower.get(n.lower()) for n in names]
    found = next((n for n in ([asked] if asked else known) if n in there), None)
    if found is None:
        missed = f"{asked}, which --{what}-column names" if asked else " or ".join(names)
        other = "" if asked else f"; --{what}-column names another"
        raise NotLoadable(f"{file_of(read)} has no column {missed}: it has {few(there)}{other}")
    return found


def text_of(where: str, row: dict[str, Any], column: str) -> str:
    """The text of a row in a column. Raises NotLoadable, with `where`, where it has no text."""
    found = row.get(column)
    if not isinstance(found, str):
        but = "" if found is None else f" but {str(found)[:40]}"
        raise NotLoadable(f"{where}: column {column} holds no text{but}")
    return found
