"""Stages one after another, each a recipe of its own: `tlm run FILE`."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlmtool.commands import perform
from tlmtool.failure import NotLoadable, Usage, check_alone
from tlmtool.models.saving import whole_folder, write_whole
from tlmtool.recipe import Recipe, built, to_dict
from tlmtool.report import Report
from tlmtool.schema import VERBS
from tlmtool.sources import from_mapping, from_sets, read

WRITES = ("compress", "merge", "overparam", "finetune")
NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
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
    writing = [e for e in before if e.recipe.verb in WRITES and not e.recipe.study.seeds]
    written = {each.name: each.out for each in writing}
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
    recipe = built(verb, [layer])
    if recipe.output.dry_run:
        raise Usage(f"{where} is a dry run, which writes nothing that the next could read")
    return Stage(name, recipe, out / name)


def run(stages: list[Stage], resume: bool, overwrite: bool) -> Iterator[tuple[Stage, Report]]:
    """Perform the stages; a report as each ends. `resume`: those that are done are not done again,
    and a training that was killed goes on. `overwrite`: each replaces its earlier result when it
    ends, none is lost before. Raises Usage for a folder that is taken or was made otherwise."""
    out = stages[0].out.parent
    kept, wanted = _kept(out), {stage.name: _identity(stage) for stage in stages}
    _check(out, kept is not None, resume, overwrite)
    kept = kept or {}
    if not overwrite:
        for stage in stages:
            done = (stage.out / "report.json").exists()
            if done and kept.get(stage.name) != wanted[stage.name]:
                raise Usage(f"{stage.out} was made by another recipe: --overwrite replaces it")
    _keep(out, kept)
    for stage in stages:
        report = None if overwrite else _done(stage)
        if report is None:
            report = _performed(stage, resume, overwrite)
            kept |= {stage.name: wanted[stage.name]}
            _keep(out, kept)
        yield stage, report


def _check(out: Path, ours: bool, resume: bool, overwrite: bool) -> None:
    check_alone("a pipeline")
    if resume and overwrite:
        raise Usage("--resume keeps what is done, --overwrite replaces it: give one of the two")
    if out.exists() and not out.is_dir():
        raise Usage(f"--out {out} is a file, not a folder")
    if out.exists() and any(out.iterdir()):
        if not ours:
            raise Usage(f"--out {out} is not empty, and holds no pipeline ({LIST})")
        if not (resume or overwrite):
            raise Usage(
                f"--out {out} is not empty: --resume goes on with it, --overwrite replaces it"
            )


def _identity(stage: Stage) -> dict[str, Any]:
    """What an earlier result must have in common with this stage to be its own: all but where it
    lies and how it is checked."""
    tree = {key: value for key, value in to_dict(stage.recipe).items() if key != "output"}
    return json.loads(json.dumps(tree).replace(json.dumps(f"{stage.out.parent}/")[:-1], '"@'))


def _kept(out: Path) -> dict[str, Any] | None:
    """{stage that is done: its recipe} of the pipeline of this folder; None where there is none."""
    try:
        found = json.loads((out / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _keep(out: Path, kept: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / LIST, json.dumps(kept, indent=1) + "\n")


def _performed(stage: Stage, resume: bool, overwrite: bool) -> Report:
    recipe = stage.recipe
    if overwrite:
        recipe = replace(recipe, output=replace(recipe.output, overwrite=True))
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
