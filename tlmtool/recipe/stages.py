"""The stages of a pipeline's file, checked, before any of them runs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.files.places import path_of
from tlmtool.recipe.building import Recipe, built
from tlmtool.recipe.schema import VERBS
from tlmtool.recipe.sources import from_mapping, from_sets, read

WRITES = ("compress", "merge", "overparam", "finetune")
NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
MOST = 1000  # stages of a file
MODELS = ("model", "evaluation.against", "evaluation.baseline", "profiling.against")
MODELS += ("distillation.teacher",)


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline; its result is a folder of the pipeline's, by its name."""

    name: str
    recipe: Recipe
    out: Path


def stages_of(file: str | Path, out: Path, sets: Iterable[str] = ()) -> list[Stage]:
    """The checked stages of a YAML file: a list `stages`, each a recipe with a `name` and a `verb`.

    A stage without MODEL takes what the last stage before it wrote; `@name` as a model is what that
    stage wrote. `sets`: 'stage.section.key=value'. Raises Usage for what is wrong in any of them.
    """
    where, given, out = f"recipe {file}", read(file), path_of(out)
    several = given.get("stages")
    if set(given) != {"stages"} or not isinstance(several, list) or not several:
        raise Usage(f"{where} is no pipeline: it should hold one key, stages, a list of recipes")
    if len(several) > MOST:
        raise Usage(f"{where} has {len(several):,} stages: a pipeline has at most {MOST:,}")
    names: dict[str, None] = {}
    for place, each in enumerate(several, 1):
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in names:
            raise Usage(f"stage {place} of {where} needs a name of its own, such as convert")
        names[name] = None
    split = _by_stage(sets, [*names])
    found: list[Stage] = []
    written: dict[str, Path] = {}
    for name, each in zip(names, several, strict=True):
        stage = _stage(name, dict(each), f"stage {name} of {where}", split[name], out, written)
        if stage.recipe.verb in WRITES and not stage.recipe.study.seeds:
            written[name] = stage.out
        found.append(replace(stage, recipe=replace(stage.recipe, file=str(file))))
    return found


def _by_stage(sets: Iterable[str], names: list[str]) -> dict[str, list[str]]:
    split: dict[str, list[str]] = {name: [] for name in names}
    for text in sets:
        name, _, rest = text.partition(".")
        if name not in split:
            known = ", ".join(names[:8]) + (", ..." if names[8:] else "")
            raise Usage(f"--set {text}: it begins with a stage ({known}), as {names[0]}.seed=1")
        split[name].append(rest)
    return split


def _stage(
    name: str,
    body: dict[str, Any],
    where: str,
    sets: list[str],
    out: Path,
    written: dict[str, Path],
) -> Stage:
    """A stage; `written`: the checkpoints of those before it, the last one last."""
    del body["name"]
    verb = body.get("verb")
    if verb not in VERBS.split():
        raise Usage(f"{where} needs a verb: {', '.join(VERBS.split())}")
    layer = from_mapping(verb, body, where) | from_sets(verb, sets)
    new = layer.get("fresh.from_config", ("", None))[1] is not None
    if "model" not in layer and written and not new:
        layer["model"] = ("MODEL", str(written[next(reversed(written))]))
    for path in MODELS:
        known, value = layer.get(path, ("", None))
        if isinstance(value, str) and value.startswith("@"):
            if value[1:] not in written:
                raise Usage(f"{where}: {value} names no earlier stage that writes a checkpoint")
            layer[path] = (known, str(written[value[1:]]))
    if layer.pop("output.out", None):
        raise Usage(f"{where} names output.out: a pipeline writes each stage to --out/NAME")
    if verb in WRITES:
        layer["output.out"] = ("output.out", str(out / name))
    recipe = built(verb, [layer])
    if recipe.output.dry_run:
        raise Usage(f"{where} is a dry run, which writes nothing that the next could read")
    return Stage(name, recipe, out / name)
