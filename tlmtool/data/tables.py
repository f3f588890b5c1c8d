"""Rows of a table file: csv, tsv, jsonl or parquet, each row with the place it came from."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlmtool.data.tasks import read_text
from tlmtool.failure import MissingDependency, NotLoadable

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
Row = tuple[str, dict[str, Any]]  # ("line 12 of train.tsv", {column: value})


def rows(path: Path, columns: tuple[str, ...] | None = None) -> list[Row]:
    """The rows of a file, by its suffix; `columns` are those of a csv or tsv without a header.

    In a tsv quotes are text, in a csv they quote. Blank lines do not count. Raises NotLoadable,
    with the line, for a row with too few fields, or too many; for quotes that do not close; for
    what is not JSON; for a file without rows.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise NotLoadable(f"{path} is no table: it should end in {', '.join(SUFFIXES)}")
    read = {".jsonl": _jsonl, ".parquet": _parquet}.get(suffix)
    found = list(read(path) if read else _delimited(path, columns))
    if not found:
        raise NotLoadable(f"{path} is empty: it holds no row")
    return found


def _delimited(path: Path, columns: tuple[str, ...] | None) -> Iterator[Row]:
    tabs = path.suffix.lower() == ".tsv"
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=not tabs, **form)
    start = 1
    try:
        for fields in reader:
            where, start = f"line {start} of {path}", reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            if columns is None:
                columns = tuple(field.strip() for field in fields)
                continue
            if len(fields) < len(columns) or (len(fields) > len(columns) and not tabs):
                raise NotLoadable(
                    f"{where} has {len(fields)} fields, {len(columns)} are expected "
                    f"({', '.join(columns)})"
                )
            yield where, dict(zip(columns, fields, strict=False))
    except csv.Error as error:
        why = "a quote does not close" if "unexpected end" in str(error) else str(error)
        raise NotLoadable(f"line {start} of {path} is not csv: {why}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise NotLoadable(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise NotLoadable(f"line {number} of {path} is no JSON object")
        yield f"line {number} of {path}", value


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependency(
            f"{path} is parquet: the package `pyarrow` is needed (pip install pyarrow)"
        ) from error
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise NotLoadable(f"{path} cannot be read as parquet: {error}") from error
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"row {number} of {path}", row
