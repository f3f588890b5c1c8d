"""A file or a data set becomes texts."""

import importlib.resources
import random
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from tlmtool.data import hub
from tlmtool.data.tables import few
from tlmtool.data.text import decoded, place, read_text
from tlmtool.failure import NotLoadable, Usage, blaming

Item = TypeVar("Item")

TEXT_SUFFIXES = {".txt", ".text", ".csv", ".tsv", ".json", ".jsonl", ".md", ".raw", ".gz", ".zip"}
SAVED_DATASET = ("dataset_info.json", "dataset_dict.json", "*.parquet", "*.arrow")


def choose(items: list[Item], samples: int | None, seed: int) -> list[Item]:
    """A seeded choice of `samples` items, in their order; all of them where there are fewer."""
    if samples is None or samples >= len(items):
        return list(items)
    if samples < 1:
        raise Usage(f"samples is {samples}; at least 1 is needed")
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), samples))]


def texts(
    source: str | Path | None = None, samples: int | None = None, seed: int = 0, words: int = 2
) -> list[str]:
    """The texts of a file (one a line, stripped, blank lines dropped), or of a data set.

    `None` is the calibration text that comes with the package. A folder, or a name that is no file,
    is given to `datasets` (split `train`, column `text` or else the first column of strings). Of
    more lines than `samples`, a seeded choice is made. Raises NotLoadable for a file that is
    missing, empty or binary, or that holds fewer than so many `words`.
    """
    name, whole = _whole(source)
    lines = whole.split("\n") if isinstance(whole, str) else whole
    found = [line.strip() for line in lines if line.strip()]
    _enough(found, name, "one text a line", words)
    return choose(found, samples, seed)


def joined(source: str | Path | None = None) -> str:
    """The text of a file as it stands, with its line ends and blank lines, or of a data set: its
    texts one after the other, each on a line of its own.

    The sources are those of `texts`, and so is what it raises.
    """
    name, whole = _whole(source)
    if not isinstance(whole, str):
        whole = "".join(text if text.endswith("\n") else f"{text}\n" for text in whole)
    _enough([whole.strip()] if whole.strip() else [], name, "a text")
    return whole


def lines(source: str | Path | None = None, samples: int | None = None) -> list[str]:
    """The lines of what `joined` reads, blank ones too, each with its line end; of more than
    `samples`, the first ones."""
    if samples is not None and samples < 1:
        raise Usage(f"samples is {samples}; at least 1 is needed")
    return split_lines(joined(source))[:samples]


def split_lines(text: str) -> list[str]:
    """The lines of a text, each with its line end."""
    return StringIO(text).readlines()


def _whole(source: str | Path | None) -> tuple[str, str | list[str]]:
    """(what a source is called, its text, or the texts of a data set)."""
    if source is None:
        shipped = importlib.resources.files("tlmtool.data").joinpath("calibration.txt")
        return "the shipped calibration text", decoded(shipped.read_bytes(), "calibration.txt")
    if (file := place(source)).is_file():
        return str(source), read_text(file)
    return str(source), _dataset(str(source))


def _enough(found: list[str], name: str, what: str, words: int = 2) -> None:
    """Raises NotLoadable for texts of fewer than so many words, one or two; `what` names what is
    needed."""
    if not found:
        raise NotLoadable(f"{name} is empty: it should hold {what}")
    if sum(len(text.split()) for text in found) < words:
        raise NotLoadable(
            f"{name} holds one word ({found[0][:40]!r}): two or more are needed, {what}"
        )


def _saved(folder: Path) -> Any:
    """The data set in a folder of this machine."""
    datasets = hub.library(str(folder), "holds a data set")
    on_disk = any((folder / name).exists() for name in SAVED_DATASET[:2])
    with blaming(f"{folder} cannot be loaded by `datasets`"):
        return (datasets.load_from_disk if on_disk else datasets.load_dataset)(str(folder))


def _dataset(source: str) -> list[str]:
    """The texts of a folder or of a data set of the Hub, by the optional `datasets`."""
    path = Path(source).expanduser()
    saved = path.is_dir() and any(any(path.glob(pattern)) for pattern in SAVED_DATASET)
    named = hub.HUB_NAME.fullmatch(source) and path.suffix.lower() not in TEXT_SUFFIXES
    if not saved and (path.is_dir() or not named):
        read_text(path)  # it raises: a folder, or a file that does not exist
    loaded = _saved(path) if saved else hub.load(source)
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    if not splits:
        raise NotLoadable(f"{source} has no split: it should have one with a column of texts")
    rows = splits["train" if "train" in splits else next(iter(splits))]
    first = rows[0] if len(rows) else {}
    columns = [name for name, value in first.items() if isinstance(value, str)]
    if not columns:
        raise NotLoadable(
            f"{source} has no column of strings: its columns are {few(first) or 'none'}"
        )
    found = rows["text" if "text" in columns else columns[0]]
    return [each for each in found if isinstance(each, str)]


def check_there(source: str, setting: str) -> None:
    """Raises NotLoadable for data that can only be on this machine and are not there."""
    named = hub.HUB_NAME.fullmatch(source) and Path(source).suffix.lower() not in TEXT_SUFFIXES
    if not named and not place(source).exists():
        raise NotLoadable(f"{source} ({setting}) does not exist: name a file or a folder")
