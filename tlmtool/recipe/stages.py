"""The stages of a pipeline file, checked before any of them runs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.files.places import path_of
from tlmtool.recipe.building import built
from tlmtool.recipe.folders import Folders, mentioned, taken
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.sources import Layer, from_mapping, from_sets, read
from tlmtool.recipe.verbs import CHECKPOINTS, VERBS, WRITES

NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
MOST = 1000  # stages of a file; each more costs a check before the first one starts


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline. `out`: the folder of its result, which has the name of the stage."""

    name: str
    recipe: Recipe
    out: Path


def stages_of(
    file: str | Path, out: Path, sets: Iterable[str] = (), folders: Iterable[str] = ()
) -> list[Stage]:
    """The checked stages of a YAML file: a list `stages`, each a recipe with a `name` and a `verb`.

    A stage without a model uses what the last stage before it wrote; `@name` as a model is what
    the stage of that name wrote. `sets`: 'stage.section.key=value'. `folders` fill each `${NAME}`,
    as in `build`. Raises Usage for whatever is wrong in any stage, NotLoadable for a file that
    cannot be read.
    """
    where, given, out = f"recipe {file}", read(file), path_of(out)
    several = given.get("stages")
    if set(given) != {"stages"} or not isinstance(several, list) or not several:
        raise Usage(
            f"{where} is no pipeline: it should hold one key, stages, with a list; a recipe of one "
            f"command runs with tlm VERB --recipe {file}, or here with its verb under the key verb"
        )
    if len(several) > MOST:
        raise Usage(f"{where} has {len(several):,} stages: a pipeline has at most {MOST:,}")
    names: dict[str, None] = {}
    for place, each in enumerate(several, 1):
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in names:
            raise Usage(f"stage {place} of {where} needs a name of its own, such as convert")
        names[name] = None
    ours, sets = taken(sets, mentioned(given))
    places = Folders.of([*folders, *ours], mentioned(given), where)
    split = _by_stage(sets, [*names])
    found: list[Stage] = []
    written: dict[str, Path] = {}
    for name, each in zip(names, several, strict=True):
        told = f"stage {name} of {where}"
        stage = _stage(name, dict(each), told, split[name], out, written, places)
        if stage.recipe.verb in CHECKPOINTS and not stage.recipe.study.seeds:
            written[name] = stage.out
        found.append(replace(stage, recipe=replace(stage.recipe, file=str(file))))
    return found


def _by_stage(sets: Iterable[str], names: list[str]) -> dict[str, list[str]]:
    """{stage: its part of `--set`}"""
    split: dict[str, list[str]] = {name: [] for name in names}
    for text in sets:
        name, _, rest = text.partition(".")
        if name not in split:
            known = ", ".join(names[:8]) + (", ..." if names[8:] else "")
            raise Usage(
                f"--set {text} does not begin with a stage ({known}): write it as {names[0]}.seed=1"
            )
        split[name].append(rest)
    return split


def _stage(
    name: str,
    body: dict[str, Any],
    where: str,
    sets: list[str],
    out: Path,
    written: dict[str, Path],
    places: Folders,
) -> Stage:
    """A stage. `written`: {stage: checkpoint} of those before it, in their order."""
    del body["name"]
    verb = body.get("verb")
    if not isinstance(verb, str) or verb not in VERBS:
        raise Usage(f"{where} needs a verb: {', '.join(VERBS)}")
    layer = from_mapping(verb, body, where) | from_sets(verb, sets)
    new = layer.get("fresh.from_config", ("", None))[1] is not None
    if "model" not in layer and written and not new:
        layer["model"] = ("MODEL", str(written[next(reversed(written))]))
    _resolve(layer, verb, where, written)
    if layer.pop("output.out", None):
        raise Usage(f"{where} names output.out: leave it out, each stage is written to --out/NAME")
    if verb in WRITES:
        layer["output.out"] = ("output.out", str(out / name))
    recipe = built(verb, [layer], places)
    if isinstance(recipe.compression.keep, tuple):
        raise Usage(f"{where} gives several budgets: a stage writes one checkpoint, so give one")
    if recipe.output.dry_run:
        raise Usage(f"{where} is a dry run, which writes nothing for the next stage to read")
    return Stage(name, recipe, out / name)


def _resolve(layer: Layer, verb: str, where: str, written: dict[str, Path]) -> None:
    """Replaces each model `@name` by the checkpoint of that stage."""
    for path, setting in settings(verb).items():
        known, value = layer.get(path, ("", None))
        if (
            setting.reads in ("model", "checkpoint")
            and isinstance(value, str)
            and value.startswith("@")
        ):
            if value[1:] not in written:
                raise Usage(f"{where}: {value} names no earlier stage that writes a checkpoint")
            layer[path] = (known, str(written[value[1:]]))
