"""Stages one after another, each a recipe of its own: `tlm run FILE`."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlmtool.commands import perform
from tlmtool.failure import NotLoadable, Usage
from tlmtool.models.saving import whole_folder
from tlmtool.recipe import Recipe, built, to_dict
from tlmtool.report import Report
from tlmtool.schema import VERBS
from tlmtool.sources import from_mapping, from_sets, read

WRITES = ("compress", "merge", "overparam", "finetune")
NAME = re.compile(r"[A-Za-z0-9][\w-]*")
LIST = "stages.json"  # in the folder of a pipeline: the recipe of each
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
    where, given = f"recipe {file}", read(file)
    several = given.get("stages")
    if set(given) != {"stages"} or not isinstance(several, list) or not several:
        raise Usage(f"{where} is no pipeline: it should hold one key, stages, a list of recipes")
    names = [each.get("name") if isinstance(each, dict) else None for each in several]
    for place, name in enumerate(names):
        if not isinstance(name, str) or not NAME.fullmatch(name) or names.index(name) != place:
            raise Usage(f"stage {place + 1} of {where} needs a name of its own, such as convert")
    split = _by_stage(sets, names)
    found: list[Stage] = []
    for name, each in zip(names, several, strict=True):
        found.append(_stage(name, dict(each), f"stage {name} of {where}", split[name], out, found))
    return found


def _by_stage(sets: Iterable[str], names: list[str]) -> dict[str, list[str]]:
    split: dict[str, list[str]] = {name: [] for name in names}
    for text in sets:
        name, _, rest = text.partition(".")
        if name not in split:
            known = ", ".join(names)
            raise Usage(f"--set {text}: it begins with a stage ({known}), as {names[0]}.seed=1")
        split[name].append(rest)
    return split


def _stage(
    name: str, body: dict[str, Any], where: str, sets: list[str], out: Path, before: list[Stage]
) -> Stage:
    del body["name"]
    verb = body.get("verb")
    if verb not in VERBS.split():
        raise Usage(f"{where} needs a verb: {', '.join(VERBS.split())}")
    layer = from_mapping(verb, body, where) | from_sets(verb, sets)
    written = {each.name: each.out for each in before if each.recipe.verb in WRITES}
    new = layer.get("fresh.from_config", ("", None))[1] is not None
    if "model" not in layer and written and not new:
        layer["model"] = ("MODEL", str([*written.values()][-1]))
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
    return Stage(name, built(verb, [layer]), out / name)


def run(stages: list[Stage], resume: bool, overwrite: bool) -> Iterator[tuple[Stage, Report]]:
    """Perform the stages; a report as each ends. `resume`: those that are done are not done again,
    and a training that was killed goes on."""
    out = stages[0].out.parent
    wanted = json.loads(json.dumps({stage.name: to_dict(stage.recipe) for stage in stages}))
    kept = _kept(out)
    if out.exists() and any(out.iterdir()) and not (resume and kept):
        if not overwrite:
            how = (
                "--resume goes on with it, --overwrite replaces it"
                if kept
                else "it is no pipeline's"
            )
            raise Usage(f"--out {out} is not empty: {how}")
        if not kept:
            raise Usage(f"--out {out} holds no pipeline ({LIST}), so it is not replaced")
        shutil.rmtree(out)
        kept = {}
    for stage in stages:
        file = stage.out / "report.json"
        if file.exists() and kept.get(stage.name) != wanted[stage.name]:
            raise Usage(
                f"{stage.out} was made by another recipe: give another --out, or --overwrite"
            )
    out.mkdir(parents=True, exist_ok=True)
    (out / LIST).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    for stage in stages:
        yield stage, _done(stage) or _performed(stage, resume)


def _kept(out: Path) -> dict[str, Any]:
    """{stage: its recipe} of the pipeline whose folder this is; empty where it is none's."""
    try:
        found = json.loads((out / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _performed(stage: Stage, resume: bool) -> Report:
    recipe = stage.recipe
    if resume and recipe.verb == "finetune":
        recipe = replace(recipe, training=replace(recipe.training, resume=True))
    report = perform(recipe)
    if recipe.verb not in WRITES:
        with whole_folder(stage.out) as folder:
            (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    return report


def _done(stage: Stage) -> Report | None:
    """The report of a stage that an earlier run has ended."""
    file = stage.out / "report.json"
    if not file.exists():
        return None
    try:
        return Report(stage.recipe.verb, json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError):
        raise NotLoadable(f"{file} is no report of a stage: remove its folder") from None


def summary(done: list[tuple[Stage, Report]]) -> Report:
    """The report of a pipeline: those of its stages."""
    stages = [{"name": stage.name, **report.data} for stage, report in done]
    return Report("run", {"stages": stages})
