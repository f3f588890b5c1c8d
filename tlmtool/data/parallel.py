"""Sentences and their translations: aligned files, tables, or a data set of the Hub.

Aligned files lie in a folder, `train.<source>` beside `train.<target>` and a development split
(`dev`, `validation`, `valid`, `val` or `test`), a sentence and its translation on the same line.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tlmtool.data.rows import (
    ASIDE,
    column_of,
    columns_of,
    file_of,
    read_tables,
    tenth_aside,
    text_of,
)
from tlmtool.data.tables import SUFFIXES, TRAIN, Row, split_file
from tlmtool.data.text import place, read_text
from tlmtool.failure import NotLoadable, Usage

TASK = "translation"  # also the column of the Hub's data sets, {language: sentence} in each row
DEV = ("dev", "validation", "valid", "val", "test")
SIDES = ("source", "target")
LANGUAGE = re.compile(r"[a-z]{2,3}(_\w+)?")
NO_LANGUAGE = ("txt", "csv", "tsv", "zip", "gz", "xz", "md")
NEEDS = "a folder with train.<source> and train.<target> and a development split, or a table"

Pair = tuple[str, str]
Languages = tuple[str, str]  # source, target
Side = tuple[str, str]  # where a sentence stands, and the sentence


class Parallel(NamedTuple):
    """Pairs to train on and to develop on; `source` says where they came from."""

    train: list[Pair]
    dev: list[Pair]
    source: str


def languages_of(given: str | None) -> Languages | None:
    """('en', 'de') of 'en-de', None of None. Raises Usage for anything else."""
    if given is None:
        return None
    first, _, second = given.partition("-")
    if not first or not second or "-" in second or first == second:
        raise Usage(f"--languages is {given}: name the source, then the target, such as en-de")
    return first, second


def parallel_splits(
    data: str | Path | None,
    languages: str | None = None,
    text: str | None = None,
    label: str | None = None,
) -> Parallel:
    """The pairs to train on and those to develop on. `languages`: 'source-target'. `text` and
    `label`: the columns of a table that hold the two sides.

    Raises Usage where the direction is not given, and NotLoadable for data that are missing or
    malformed.
    """
    source, pair, path = str(data), languages_of(languages), _path(data)
    if path.is_dir() and (there := _languages(path, pair)):
        train = _split(path, TRAIN, there)
        return Parallel(train, _split(path, DEV, there), source)
    if whole := _one_file(path, pair):
        return Parallel(*tenth_aside(whole, source), source + ASIDE)
    train, dev, source = _rows(data, path, pair, text, label)
    learned = _pairs(train, pair, text, label)
    if dev is not None:
        return Parallel(learned, _pairs(dev, pair, text, label), source)
    return Parallel(*tenth_aside(learned, source), source + ASIDE)


def parallel_pairs(
    data: str | Path | None,
    languages: str | None = None,
    text: str | None = None,
    label: str | None = None,
) -> list[Pair]:
    """What a model is scored on: the development split, or all of a single file."""
    pair, path = languages_of(languages), _path(data)
    if path.is_dir() and (there := _languages(path, pair)):
        return _split(path, DEV, there)
    if whole := _one_file(path, pair):
        return whole
    if path.is_file():
        return _pairs(read_tables(TASK, data, (text, None, label))[0], pair, text, label)
    return parallel_splits(data, languages, text, label).dev


def _path(data: str | Path | None) -> Path:
    if data is None:
        raise Usage(f"task {TASK} needs --data: {NEEDS}")
    return place(data)


# ---- aligned files


def _languages(folder: Path, given: Languages | None) -> Languages | None:
    """The languages of a folder's aligned files, in the direction that is asked for; None where the
    folder holds tables instead."""
    files = [f for f in folder.iterdir() if f.is_file() and f.stem in (*TRAIN, *DEV)]
    there = sorted({file.suffix[1:] for file in files if _is_language(file.suffix[1:], given)})
    if not there:
        if split_file(folder, TRAIN) is None:
            raise NotLoadable(f"{folder} holds no sentence pairs: translation needs {NEEDS}")
        return None
    if len(there) == 1:
        other = next((each for each in given or () if each not in there), "another language")
        raise NotLoadable(
            f"{folder} has files of {there[0]} and none of {other}: a translation needs both sides"
        )
    if given is None:
        _ask(str(folder), there)
    if lacks := [each for each in given if each not in there]:
        raise NotLoadable(f"{folder} has no files of {lacks[0]}: it has {', '.join(there)}")
    return given


def _is_language(name: str, given: Languages | None) -> bool:
    usual = LANGUAGE.fullmatch(name) and name not in NO_LANGUAGE
    return bool(usual) or name in (given or ())


def _ask(where: str, there: list[str]) -> NoReturn:
    """Raises Usage, as the direction cannot be guessed."""
    a, b = there[:2]
    more = f"{a}-{b} or {b}-{a}" if len(there) == 2 else f"{a}-{b}"
    raise Usage(
        f"{where} holds {', '.join(there[:-1])} and {there[-1]}, and which way to translate cannot "
        f"be guessed: give --languages {more}, source first"
    )


def _split(folder: Path, names: tuple[str, ...], languages: Languages) -> list[Pair]:
    """The pairs of the first split of these names. Raises NotLoadable where a side is missing."""
    for name in names:
        files = [folder / f"{name}.{language}" for language in languages]
        there = [file for file in files if file.is_file()]
        if len(there) == 2:
            return _aligned(*files)
        if there:
            lacks = next(file for file in files if file not in there)
            raise NotLoadable(
                f"{there[0]} has no {lacks.name} beside it: a translation needs both sides"
            )
    wanted = " and ".join(f"{names[0]}.{language}" for language in languages)
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise NotLoadable(f"{folder} has no {wanted}{others}")


def _one_file(path: Path, languages: Languages | None) -> list[Pair] | None:
    """The pairs of a side's file and the other side's beside it; None for other kinds of file."""
    if not path.is_file() or path.suffix.lower() in SUFFIXES:
        return None
    if languages is None or path.suffix[1:] not in languages:
        raise Usage(
            f"{path} is no table of pairs: name {NEEDS}, or one side's file and --languages"
        )
    return _split(path.parent, (path.stem,), languages)


def _aligned(first: Path, second: Path) -> list[Pair]:
    sides = [_lines(file) for file in (first, second)]
    counts = [f"{len(lines):,}" for lines in sides]
    if counts[0] != counts[1]:
        raise NotLoadable(
            f"{first} has {counts[0]} lines and {second.name} has {counts[1]}: aligned files hold "
            "a sentence and its translation on the same line"
        )
    places = (
        [f"line {i} of {file}" for i in range(1, len(sides[0]) + 1)] for file in (first, second)
    )
    both = [zip(*side, strict=True) for side in zip(places, sides, strict=True)]
    return _kept(zip(*both, strict=True), str(first))


def _lines(file: Path) -> list[str]:
    lines = read_text(file).removesuffix("\n").split("\n")
    if not any(line.strip() for line in lines):
        raise NotLoadable(f"{file} is empty: it should hold a sentence on each line")
    return lines


def _kept(rows: Iterable[tuple[Side, Side]], source: str) -> list[Pair]:
    """The pairs, without those of two empty sides. Raises NotLoadable where one side is empty."""
    found = []
    for (here, first), (there, second) in rows:
        a, b = first.strip(), second.strip()
        if bool(a) != bool(b):
            empty, full = (there, here) if a else (here, there)
            raise NotLoadable(f"{empty} is empty and {full} is not: a pair needs both sides")
        if a:
            found.append((a, b))
    if not found:
        raise NotLoadable(f"{source} is empty: it holds no pair of sentences")
    return found


# ---- tables


def _rows(
    data: Any, path: Path, languages: Languages | None, text: str | None, label: str | None
) -> tuple[list[Row], list[Row] | None, str]:
    """The rows of tables, or of the part of a Hub data set that is named by the languages."""
    parts = ("-".join(languages), "-".join(languages[::-1])) if languages else ()
    there = path.exists()
    return read_tables(TASK, data, (text, None, label), () if there else parts)


def _pairs(
    read: list[Row], languages: Languages | None, text: str | None, label: str | None
) -> list[Pair]:
    """The pairs in the columns that are asked for, or in the Hub's column of translations. Without
    either, the columns are named by the languages, or `source` and `target`."""
    columns, where = columns_of(read), file_of(read)
    if (text or label) is None and TASK in columns:
        read = [(place, _of_languages(place, row)) for place, row in read]
        columns = columns_of(read)
        if languages is None:
            _ask(where, sorted(columns))
    elif languages is None and len(columns) == 2 and not ({*columns} & {*SIDES, text, label}):
        _ask(where, sorted(columns))
    known, flags = zip(languages or SIDES, SIDES, strict=True), ("text", "label")
    asked = zip((text, label), known, flags, strict=True)
    names = [column_of(read, *each) for each in asked]

    def side(place: str, row: dict[str, Any], name: str) -> Side:
        return f"column {name} of {place}", text_of(place, row, name)

    return _kept(((side(p, r, names[0]), side(p, r, names[1])) for p, r in read), where)


def _of_languages(place: str, row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(found := row.get(TASK), dict):
        raise NotLoadable(f"{place}: column {TASK} holds no sentences by language")
    return found
