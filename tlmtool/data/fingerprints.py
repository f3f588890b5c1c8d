"""The sha256 of what a recipe reads from this machine. A run is resumed, or counts as done, only
where these are the same. What comes from the Hub is known by its name and revision."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tlmtool.data import parallel
from tlmtool.data.reading import SAVED_DATASET, TEXT_SUFFIXES
from tlmtool.data.tables import DEV, SUFFIXES, TRAIN
from tlmtool.files.reading import sha256
from tlmtool.models.finding import SIDE_FILES
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.inputs import named_by
from tlmtool.recipe.schema import settings
from tlmtool.tasks.table import TRANSLATION

SAVED = {*TEXT_SUFFIXES, *SUFFIXES, ".arrow"}  # suffixes of files that `datasets` reads in a folder
# files of a checkpoint that no command reads
OURS = ("README.md", "report.json", "recipe.yaml", "report.png")
Sums = dict[str, dict[str, str]]  # {setting: {file: sha256}}
Known = dict[tuple[str, int, int, int], str]  # {(path, inode, size, time): sha256}


def sums_of(recipe: Recipe, known: Known | None = None) -> Sums:
    """The sum of every file that the recipe reads, by the setting that names it. Give the same
    `known` to several calls, so that a file that has not changed is read once."""
    known = {} if known is None else known
    return {
        setting: {
            str(file.relative_to(place) if place.is_dir() else file.name): _sum(file, known)
            for file in _files(recipe, setting, place)
        }
        for setting, place in named_by(recipe).items()
    }


def known_of(folder: Path, sums: dict[str, str]) -> Known:
    """Sums {path below a folder: sha256} that are known already, for `sums_of`."""
    return {_key(folder / name): each for name, each in sums.items() if (folder / name).is_file()}


def changed(before: Any, now: Sums) -> str:
    """The first file that has changed, in words: 'train.tsv (training.data)'."""
    before = before if isinstance(before, dict) else {}
    for setting in sorted({*map(str, before), *now}):
        old, new = before.get(setting), now.get(setting, {})
        old = old if isinstance(old, dict) else {}
        for name in sorted({*map(str, old), *new}):
            if old.get(name) != new.get(name):
                return f"{name} ({setting})"
    return "what it reads"


def _sum(file: Path, known: Known) -> str:
    if (key := _key(file)) not in known:
        known[key] = sha256(file)
    return known[key]


def _key(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return (str(file), found.st_ino, found.st_size, found.st_mtime_ns)


def _files(recipe: Recipe, setting: str, place: Path) -> list[Path]:
    """The regular files that are read of a place. Others are refused by what opens them."""
    if place.is_file():
        others = (place.with_suffix(f".{side}") for side in _sides(recipe, place))
        found: Iterable[Path] = {place, *others}
    elif settings(recipe.verb)[setting].reads != "data":
        found = _of_checkpoint(place)
    else:
        translates = TRANSLATION in (recipe.training.task, recipe.evaluation.task)
        names = (*TRAIN, *DEV, *(parallel.DEV if translates else ()))
        splits = [f for f in place.iterdir() if f.name.partition(".")[0] in names and f.is_file()]
        found = splits or _of_dataset(place)
    return sorted(file for file in found if file.is_file())


def _sides(recipe: Recipe, file: Path) -> list[str]:
    """The languages of aligned files, where the recipe names one of these files."""
    given = recipe.training.languages or ""
    return [] if file.suffix.lower() in SUFFIXES else given.split("-") if given else []


def _of_dataset(folder: Path) -> Iterable[Path]:
    """The files of a folder that `datasets` reads; none where it does not know the folder."""
    if any(any(folder.glob(pattern)) for pattern in SAVED_DATASET):
        for place, below, names in os.walk(folder):
            below[:] = [name for name in below if not name.startswith(".")]
            found = (Path(place, name) for name in names if not name.startswith("."))
            yield from (file for file in found if file.suffix.lower() in SAVED)


def _of_checkpoint(folder: Path) -> Iterator[Path]:
    """Weights, config, tokenizer, and what client libraries keep in folders below."""
    parts = (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "check")))
    for place in (folder, *parts):
        for pattern in ("*.safetensors", "*.gguf", *SIDE_FILES):
            yield from (file for file in place.glob(pattern) if file.name not in OURS)
