"""What a recipe reads from this machine, by sha256, so that a run goes on, and counts as done, from
the same input alone. What comes from the Hub goes by its name and revision."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tlmtool.data import parallel
from tlmtool.data.tables import DEV, SUFFIXES, TRAIN
from tlmtool.data.tasks import SAVED_DATASET, TEXT_SUFFIXES
from tlmtool.files.reading import sha256
from tlmtool.models.finding import SIDE_FILES
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.inputs import named_by
from tlmtool.recipe.schema import settings
from tlmtool.tasks.table import TRANSLATION

SAVED = {*TEXT_SUFFIXES, *SUFFIXES, ".arrow"}  # of files that `datasets` reads in a folder
OURS = ("README.md", "report.json", "recipe.yaml")  # of a checkpoint: nothing reads them
Sums = dict[str, dict[str, str]]  # {setting: {file: sha256}}
Known = dict[tuple[str, int, int, int], str]  # sums of files that stayed as they were meanwhile


def sums_of(recipe: Recipe, known: Known | None = None) -> Sums:
    """The sums of every file that the recipe reads, by the setting that names it.

    `known`: kept between calls, so that a file that has not changed is read once."""
    known = {} if known is None else known
    return {
        setting: {
            str(file.relative_to(place) if place.is_dir() else file.name): _sum(file, known)
            for file in _files(recipe, setting, place)
        }
        for setting, place in named_by(recipe).items()
    }


def changed(before: Any, now: Sums) -> str:
    """The first file that is not as it was, in words: 'train.tsv (training.data)'."""
    before = before if isinstance(before, dict) else {}
    for setting in sorted({*map(str, before), *now}):
        old, new = before.get(setting), now.get(setting, {})
        old = old if isinstance(old, dict) else {}
        for name in sorted({*map(str, old), *new}):
            if old.get(name) != new.get(name):
                return f"{name} ({setting})"
    return "what it reads"


def _sum(file: Path, known: Known) -> str:
    found = file.stat()
    key = (str(file), found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in known:
        known[key] = sha256(file)
    return known[key]


def _files(recipe: Recipe, setting: str, place: Path) -> list[Path]:
    """The regular files that are read of a place; others are refused by whoever opens them."""
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
    """The languages of aligned files, of which one is named."""
    given = recipe.training.languages or ""
    return [] if file.suffix.lower() in SUFFIXES else given.split("-") if given else []


def _of_dataset(folder: Path) -> Iterable[Path]:
    """What `datasets` reads of a folder; of one that it does not know, nothing is read."""
    if any(any(folder.glob(pattern)) for pattern in SAVED_DATASET):
        for place, below, names in os.walk(folder):
            below[:] = [name for name in below if not name.startswith(".")]
            found = (Path(place, name) for name in names if not name.startswith("."))
            yield from (file for file in found if file.suffix.lower() in SAVED)


def _of_checkpoint(folder: Path) -> Iterator[Path]:
    """Weights, config, tokenizer, and what a client library keeps in folders below."""
    parts = (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "check")))
    for place in (folder, *parts):
        for pattern in ("*.safetensors", *SIDE_FILES):
            yield from (file for file in place.glob(pattern) if file.name not in OURS)
