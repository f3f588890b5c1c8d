"""Texts to train a language model on, and those that measure it."""

from pathlib import Path

from tlmtool.data.reading import texts
from tlmtool.data.tables import DEV, TRAIN, split_file
from tlmtool.failure import NotLoadable

HELD = 64  # the most texts that are held out; more measure more exactly, and take longer
EIGHTH = 8  # of fewer texts, every eighth is held out
PLAIN = (".txt",)


def language_splits(data: str | Path | None) -> tuple[list[str], list[str], str]:
    """(training texts, development texts, where they came from). They are those of a folder with
    `train.txt` and `dev.txt` (or `validation`, `valid`, `val`), or those that `texts` reads, some
    of which are held out.

    Raises NotLoadable for a folder with one of the two, and for too few texts to hold one out.
    """
    source = str(data) if data is not None else "the text that comes with tlm"
    folder = Path(data).expanduser() if data is not None else None
    if folder and folder.is_dir():
        train, dev = split_file(folder, TRAIN, PLAIN), split_file(folder, DEV, PLAIN)
        if train and dev:
            return texts(train), texts(dev), source
        if train or dev:
            there, lacks = ("train", "dev") if train else ("dev", "train")
            raise NotLoadable(
                f"{folder} has a {there} file of texts and no {lacks}.txt: it needs both, or name "
                "one file, of which a part is held out"
            )
    return *apart(texts(data), source), source


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
