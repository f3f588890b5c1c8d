"""Builds a checked recipe from flags, `--set` and a YAML file, and writes it as YAML again.

A flag beats `--set`, which beats the recipe file, which beats the default. Whatever is wrong is one
sentence: a Usage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.files.notation import written
from tlmtool.recipe.folders import GIVEN, NONE, Folders, mentioned, taken
from tlmtool.recipe.rules import BLOCKS, BUDGETS, PLAIN, check
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.setting import schema_in
from tlmtool.recipe.sources import FREE, Layer, from_file, from_flags, from_sets
from tlmtool.recipe.values import convert

# Settings that exclude each other: one of them replaces all that were given at a weaker place.
ALONE = {
    BUDGETS: "exclude each other: give one budget",
    ("training.lr", "study.lr_grid"): "both say the rate: give the one, or those to choose from",
}
DEMO = {"model": "minilm", "training.task": "grammar"}  # of a finetune that names none of TOLD
TOLD = (*DEMO, "distillation.teacher", "fresh.from_config")


def build(
    verb: str,
    flags: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
    recipe_file: str | Path | None = None,
    folders: Iterable[str] = (),
) -> Recipe:
    """The checked recipe of a verb.

    `flags`: {flag without its dashes: text, another value, or None where it is not given}, and
    `model`; `sets`: 'section.key=value', lists with commas, `null` for none. A budget (rank, keep
    or energy) replaces any budget that was given at a weaker place; so do a learning rate and a
    grid of rates. `folders` fill each `${NAME}` of the file, as `NAME=DIR` or one parent folder;
    `sets` and the flag `data` may be `NAME=DIR` too. Raises Usage, or NotLoadable for a missing
    file.
    """
    layer = from_file(verb, recipe_file) if recipe_file is not None else {}
    names, flags = mentioned([raw for _, raw in layer.values()]), dict(flags or {})
    match = GIVEN.fullmatch(str(flags.get("data")))
    named = [str(flags.pop("data"))] if match and match[1] in names else []
    ours, sets = taken(sets, names)
    where = f"recipe {recipe_file}"
    layers = [layer, from_sets(verb, sets), from_flags(verb, flags)]
    made = built(verb, layers, Folders.of([*folders, *ours, *named], names, where))
    return replace(made, file=None if recipe_file is None else str(recipe_file))


def built(verb: str, layers: list[Layer], folders: Folders = NONE) -> Recipe:
    """The checked recipe of what was given at several places, the weakest first. `folders` fill
    each `${NAME}` where the recipe names what is read."""
    values: dict[str, Any] = {}
    free: dict[str, Any] = {}
    known = settings(verb)
    for layer in layers:
        checked = {
            path: convert(known[path].kind, known[path].rules, name, raw)
            for path, (name, raw) in layer.items()
            if not path.startswith(FREE)
        }
        free |= {path: raw for path, (_, raw) in layer.items() if path.startswith(FREE)}
        for replaced in _replaced(layer, checked):
            values.pop(replaced, None)
        values |= checked
    values |= {p: folders.filled(raw) for p, raw in values.items() if known[p].reads}
    if verb == "finetune" and all(values.get(path) is None for path in TOLD):
        values |= DEMO
    check(verb, values, free)
    if values.get("compression.plain"):
        values |= PLAIN
    sections = {
        entry.name: schema(**_within(values, f"{entry.name}."))
        for entry in fields(Recipe)
        if (schema := schema_in(entry))
    }
    top = {path: value for path, value in values.items() if "." not in path}
    return Recipe(verb=verb, config=_within(free, FREE), **top, **sections)


def _replaced(layer: Layer, checked: Mapping[str, Any]) -> set[str]:
    """The settings of weaker places that a place replaces."""
    found: set[str] = set()
    for paths, why in ALONE.items():
        given = [path for path in paths if checked.get(path)]
        if len(given) > 1:
            raise Usage(f"{' and '.join(layer[path][0] for path in given)} {why}")
        if given:
            found |= {*paths, *([BLOCKS] if given[0] in BUDGETS[1:] else [])}
    return found


def _within(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {p.removeprefix(prefix): value for p, value in values.items() if p.startswith(prefix)}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """What the verb of a recipe reads, as plain values by section; null and empty ones left out."""
    tree: dict[str, Any] = {"verb": recipe.verb}
    for path in settings(recipe.verb):
        value: Any = reduce(getattr, path.split("."), recipe)
        if isinstance(value, tuple):
            value = [_plain(each) if is_dataclass(each) else each for each in value]
        if value is not None and value != []:
            section, _, leaf = path.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree | ({"config": dict(recipe.config)} if recipe.config else {})


def _plain(entry: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if value is not None}


def dump(recipe: Recipe, file: str = "recipe.yaml") -> str:
    """YAML that `build` reads back as the same recipe; its first line is a command for that."""
    return f"# tlm {recipe.verb} --recipe {file}\n{written(to_dict(recipe))}"
