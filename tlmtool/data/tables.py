"""Reads the rows of a csv, tsv, jsonl or parquet file, each with the place that it came from."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tlmtool.data.text import place, read_text
from tlmtool.failure import MissingDependency, NotLoadable, first_line

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
TRAIN = ("train",)
DEV = ("dev", "validation", "valid", "val", "dev_matched", "validation_matched")
MOST_ROWS = 100_000_000  # a parquet file that says it has more is refused
Row = tuple[str, dict[str, Any]]  # ("line 12 of train.tsv", {column: value})


def split_file(
    folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...] = SUFFIXES
) -> Path | None:
    """The first file of a folder that has one of these names with one of these suffixes."""
    files = (folder / f"{name}{suffix}" for name in names for suffix in suffixes)
    return next((file for file in files if file.is_file()), None)


def rows(
    path: Path, columns: tuple[str, ...] | None = None, header: tuple[str, ...] = ()
) -> list[Row]:
    """The rows of a file, by its suffix. `columns` are those of a csv or tsv without a header. Its
    first line is a header if it holds every name in `header`, in any case.

    In a tsv, quotes are text; in a csv, they quote. Blank lines do not count. Raises NotLoadable,
    with the line, for a row with too few fields or too many, for quotes that do not close, and for
    what is not JSON. A column that is named twice and a file without rows are refused too.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise NotLoadable(f"{path} is no table: it should end in {', '.join(SUFFIXES)}")
    read = {".jsonl": _jsonl, ".parquet": _parquet}.get(suffix)
    found = list(read(path) if read else _delimited(path, columns, header))
    if not found:
        raise NotLoadable(f"{path} is empty: it holds no row of data")
    return found


def records(text: str, name: str, tabs: bool) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of each line of csv that is not blank. With `tabs` it is tsv, where quotes
    are text. `name` is that of the file. Raises NotLoadable with the line."""
    settings: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    usual = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a field of any length
    reader = csv.reader(io.StringIO(text, newline=""), strict=not tabs, **settings)
    start = 1
    try:
        for fields in reader:
            where, start = f"line {start} of {name}", reader.line_num + 1
            if any(field.strip() for field in fields):
                yield where, fields
    except csv.Error as error:
        why = str(error)
        if "unexpected end" in why:
            why = "a quote does not close"
        elif "expected after" in why:
            why = "text follows a closing quote (within quotes, write a quote twice)"
        raise NotLoadable(f"line {start} of {name} is not csv: {why}") from error
    finally:
        csv.field_size_limit(usual)


def _delimited(
    path: Path, columns: tuple[str, ...] | None, header: tuple[str, ...]
) -> Iterator[Row]:
    tabs, names = path.suffix.lower() == ".tsv", None
    strict = not tabs  # the rows of a tsv may hold more fields than its header names
    for where, fields in records(read_text(path), str(path), tabs):
        if names is None:
            first = tuple(field.strip() for field in fields)
            if columns is None or _plain(header) <= _plain(first):
                names = _once(where, first)
                continue
            names, strict = columns, True
        if len(fields) < len(names) or (len(fields) > len(names) and strict):
            raise NotLoadable(
                f"{where} has {len(fields)} fields, {len(names)} are expected ({few(names)})"
            )
        yield where, dict(zip(names, fields, strict=False))


def _plain(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def few(names: Iterable[str]) -> str:
    """The first names of columns, each shortened."""
    shown = [name[:40] for name in names]
    return ", ".join(shown[:12]) + (", ..." if shown[12:] else "")


def _once(where: str, names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next(((n, many) for n, many in Counter(names).items() if n and many > 1), None)
    if twice is not None:
        name = twice[0][:40]
        raise NotLoadable(f"{where} names column {name} {twice[1]} times: name it once")
    return names


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"line {number} of {path}"
            yield where, _object(where, line)


def _object(where: str, line: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises NotLoadable where a key is there twice."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _once(where, tuple(name for name, _ in pairs))
        return dict(pairs)

    try:
        value = json.loads(line, object_pairs_hook=mapping)
        if "\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotLoadable(f"{where} holds a lone surrogate, which is not text") from None
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", str(error))
        raise NotLoadable(f"{where} is not JSON, one object a line: {why}") from error
    if not isinstance(value, dict):
        raise NotLoadable(f"{where} is no JSON object: it should be one object a line")
    return value


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependency(
            f"{path} is parquet: the package `pyarrow` is needed (pip install pyarrow)"
        ) from error
    try:
        with parquet.ParquetFile(place(path)) as file:
            if (many := file.metadata.num_rows) > MOST_ROWS:  # a tiny file may claim to hold them
                raise NotLoadable(f"{path} holds {many:,} rows: at most {MOST_ROWS:,} are read")
            table = file.read()
            _once(str(path), tuple(table.column_names))
            found = table.to_pylist()
    except NotLoadable:
        raise
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise NotLoadable(f"{path} cannot be read as parquet: {first_line(error)}") from error
    for number, row in enumerate(found, 1):
        yield f"row {number} of {path}", row
