"""The files and folders that a recipe names."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from tlmtool.files.places import Read
from tlmtool.recipe.schema import Recipe
from tlmtool.recipe.setting import Setting, settings_of

Find = Callable[[str, str | None], Path | None]  # (name of a model, revision) -> its folder


def reads_of(recipe: Recipe, find: Find = lambda *_: None) -> list[Read]:
    """The files and folders of this machine that a run reads, and the recipe itself.

    `find` returns the folder of a model that is named otherwise than by its path, where it is on
    this machine.
    """
    found = [] if recipe.file is None else [("the recipe", Path(recipe.file))]
    for setting, place in _places(recipe):
        if os.path.lexists(place) or "model" not in setting.reads:
            found.append((setting.name, place))
            continue
        revision = recipe.revision if setting.path == "model" else None
        name = str(reduce(getattr, setting.path.split("."), recipe))
        if folder := find(name, revision):
            found.append((f"{setting.name} {name} in", folder))
    return [(name, place) for name, place in found if os.path.lexists(place)]


def named_by(recipe: Recipe) -> dict[str, Path]:
    """{path of a setting: file or folder} of what the verb of a recipe reads on this machine."""
    return {
        setting.path: place
        for setting, place in _places(recipe)
        if recipe.verb in setting.verbs and place.exists()
    }


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe, by section, with one spelling of each path: `in` for `./in/`."""
    found = {k: {**each} if isinstance(each, dict) else each for k, each in values.items()}
    for setting in settings_of(Recipe):
        section, _, leaf = setting.path.rpartition(".")
        held = found.get(section) if section else found
        text = held.get(leaf) if setting.reads and isinstance(held, dict) else None
        if held and isinstance(text, str) and text:
            held[leaf] = os.path.normpath(text)
    return found


def _places(recipe: Recipe) -> Iterator[tuple[Setting, Path]]:
    for setting in settings_of(Recipe):
        value = reduce(getattr, setting.path.split("."), recipe)
        if not setting.reads or not isinstance(value, str | os.PathLike) or "\0" in str(value):
            continue
        if str(value):
            with suppress(
                RuntimeError
            ):  # the home of an unknown user holds no file of this machine
                yield setting, Path(value).expanduser()
