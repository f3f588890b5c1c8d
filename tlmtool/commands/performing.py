"""A whole command from Python, or from a recipe: `run` and `perform`."""

import os
from collections.abc import Collection, Iterable
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from tlmtool.data import hub
from tlmtool.data.reading import check_there
from tlmtool.failure import check_alone
from tlmtool.files.claims import claims
from tlmtool.files.places import check_place, path_of
from tlmtool.models import finding
from tlmtool.models.finding import cached
from tlmtool.recipe import building as recipes
from tlmtool.recipe.folders import check_filled
from tlmtool.recipe.inputs import reads_of
from tlmtool.recipe.schema import settings
from tlmtool.recipe.stages import Stage
from tlmtool.tasks.table import TASKS


def perform(recipe: recipes.Recipe) -> Any:
    """The `Report` of a recipe's verb."""
    if recipe.verb != "finetune":
        check_alone(f"tlm {recipe.verb}")
    check_filled(recipe)
    if recipe.output.out and not recipe.output.dry_run:
        check_place(path_of(recipe.output.out), reads_of(recipe, cached))
    _check_network(recipe)
    with claims():
        return getattr(import_module(f"tlmtool.commands.{recipe.verb}"), recipe.verb)(recipe)


def check_inputs(stages: Iterable[Stage]) -> None:
    """Raises NotLoadable for data that nobody has given, then for data and models that are not
    there and that no stage makes."""
    stages = [*stages]
    made = {os.path.realpath(stage.out) for stage in stages}
    for stage in stages:
        check_filled(stage.recipe)
    for recipe in (stage.recipe for stage in stages):
        for path, setting in settings(recipe.verb).items():
            value = reduce(getattr, path.split("."), recipe)
            if not isinstance(value, str) or value in ("", "none"):
                continue
            if setting.reads == "data":
                check_there(value, path)
            elif setting.reads == "model" and not _within(value, made):
                finding.check_there(value, recipe.revision if path == "model" else None)


def _within(name: str, folders: Collection[str]) -> bool:
    place = Path(os.path.realpath(path_of(name)))
    return any(str(each) in folders for each in (place, *place.parents))


def _check_network(recipe: recipes.Recipe) -> None:
    """Raises NotLoadable where the Hub is needed and cannot be reached, before the slow imports."""
    for path, setting in settings(recipe.verb).items():
        value = reduce(getattr, path.split("."), recipe)
        if not setting.reads or not isinstance(value, str) or value in ("", "none"):
            continue
        if setting.reads == "model":
            finding.check_reachable(value, recipe.revision if path == "model" else None)
        elif setting.reads == "data":
            hub.check_reachable(value)
    published = TASKS[recipe.training.task].hub if recipe.training.task in TASKS else None
    if recipe.verb == "finetune" and recipe.training.data is None and published:
        hub.check_reachable(published)


def run(
    verb: str,
    model: str | None = None,
    *,
    sets: Iterable[str] = (),
    recipe: str | Path | None = None,
    **flags: Any,
) -> Any:
    """`tlm VERB MODEL --flag value ...` from Python. Returns its `Report`; `data` is the JSON.

    Flags have their names with `_` for `-`: `run("finetune", "minilm", task="cola", N=6)`. `sets`
    are as in `--set`, and `recipe` is a YAML file. Raises a `Failure` where the command would
    fail; its `code` is the exit code.
    """
    given = {k: str(v) if isinstance(v, Path) else v for k, v in {"model": model, **flags}.items()}
    return perform(recipes.build(verb, given, sets, recipe))
