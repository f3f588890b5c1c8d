"""Texts to train a language model on, and those that measure it."""

from pathlib import Path
from typing import NamedTuple

from tlmtool.data.batching import ROOM
from tlmtool.data.reading import joined, split_lines, texts
from tlmtool.data.tables import DEV, TRAIN, split_file
from tlmtool.data.windows import start_of_line
from tlmtool.failure import NotLoadable

SHIPPED = "the text that comes with tlm"
HELD = 64  # the most texts that are held out; more measure more exactly, and take longer
EIGHTH = 8  # of fewer texts, every eighth is held out
HELD_TOKENS = 16_384  # of joined text; with fewer, a perplexity is less certain
PART = 3  # at most this part of a joined text is held out; a smaller one leaves more to learn from
LEAST = 512  # characters: of a shorter joined text nothing is held out
PLAIN = (".txt",)


class Joined(NamedTuple):
    """Text to learn or to calibrate from, and text after it that is held out. `where`: which part
    is held out, in words; `held` is empty where the text is too short to hold any out."""

    rest: str
    held: str
    source: str
    where: str


def language_splits(
    data: str | Path | None, tail: bool = False, verbatim: bool = False
) -> tuple[list[str], list[str], str]:
    """(training texts, development texts, where they came from). They are those of a folder with
    `train.txt` and `dev.txt` (or `validation`, `valid`, `val`), or those that `texts` reads, some
    of which are held out: with `tail` those at the end, as `joined_split` has it. With `verbatim`
    they are all lines of its two parts, blank ones too, each with its line end.

    Raises NotLoadable for a folder with one of the two, and for too few texts to hold one out.
    """
    source = str(data) if data is not None else SHIPPED
    if verbatim:
        split = joined_split(data)
        if not split.held:
            raise NotLoadable(
                f"{source} has {len(split.rest)} characters: {LEAST} are needed to hold a part out"
            )
        return split_lines(split.rest), split_lines(split.held), source
    if files := _files(data):
        return texts(files[0]), texts(files[1]), source
    if tail and (found := joined_split(data)).held:
        return lines_of(found.rest), lines_of(found.held), source
    return *apart(texts(data), source), source


def joined_split(data: str | Path | None) -> Joined:
    """The joined text of a source, its tail held out; or that of the two files of a folder.

    The tail starts with a line. It is a third of the text, or the characters of `HELD_TOKENS`
    tokens where that is less. Raises NotLoadable for a folder with one of the two files.
    """
    source = str(data) if data is not None else SHIPPED
    if files := _files(data):
        return Joined(joined(files[0]), joined(files[1]), source, f"{files[1].name} of {source}")
    if len(text := joined(data)) < LEAST:
        return Joined(text, "", source, "")
    tail = min(len(text) // PART, HELD_TOKENS * ROOM)
    cut = start_of_line(text, len(text) - tail, tail // 2)  # half of it is left at least
    line = text.count("\n", 0, cut) + 1
    where = f"the last {len(text) - cut:,} characters of {source}, from line {line:,} on"
    return Joined(text[:cut], text[cut:], source, where)


def lines_of(text: str) -> list[str]:
    """The lines of a text that are not blank, stripped."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _files(data: str | Path | None) -> tuple[Path, Path] | None:
    """The two files of a folder of texts; raises NotLoadable where it has one of them."""
    folder = Path(data).expanduser() if data is not None else None
    if folder is None or not folder.is_dir():
        return None
    train, dev = split_file(folder, TRAIN, PLAIN), split_file(folder, DEV, PLAIN)
    if train and dev:
        return train, dev
    if not (train or dev):
        return None
    there, lacks = ("train", "dev") if train else ("dev", "train")
    raise NotLoadable(
        f"{folder} has a {there} file of texts and no {lacks}.txt: it needs both, or name one "
        "file, of which a part is held out"
    )


def development_file(data: str | Path | None) -> str | Path | None:
    """The file of development texts in a folder that has one, or else `data` itself."""
    folder = Path(data).expanduser() if data is not None else None
    return split_file(folder, DEV, PLAIN) or data if folder and folder.is_dir() else data


def held_out(texts: list[str]) -> tuple[list[str], list[str]]:
    """(texts to train on, texts to measure on): every eighth is held out, or 64 of them evenly."""
    every = max(EIGHTH, -(-len(texts) // HELD))
    return [t for i, t in enumerate(texts) if i % every != every - 1], texts[every - 1 :: every]


def apart(texts: list[str], source: str) -> tuple[list[str], list[str]]:
    """`held_out`. Raises NotLoadable where that leaves nothing to measure on."""
    if len(texts) < EIGHTH:
        raise NotLoadable(
            f"{source} has {len(texts)} texts: {EIGHTH} are needed, one of which is held out to "
            "measure"
        )
    return held_out(texts)
