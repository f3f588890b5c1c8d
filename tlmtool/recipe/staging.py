"""One stage of a recipe file, made of what is said about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.files.places import path_of
from tlmtool.recipe.building import built
from tlmtool.recipe.folders import Folders
from tlmtool.recipe.matrix import Values
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.sources import Layer, from_mapping, from_sets
from tlmtool.recipe.values import convert
from tlmtool.recipe.verbs import CHECKPOINTS, VERBS, WRITES

Place = Callable[[str, frozenset[str]], Path]  # (stage, keys of the matrix) -> folder


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline. `out`: the folder of its result; `uses`: the earlier stages whose
    checkpoints it reads; `keys`: of a matrix, those that its result depends on; `launch`: what
    starts it in several processes."""

    name: str
    recipe: Recipe
    out: Path
    uses: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    launch: tuple[str, ...] = ()


@dataclass
class Earlier:
    """The stages so far, and the checkpoints that they wrote, in their order."""

    stages: list[Stage] = field(default_factory=list)
    written: dict[str, Stage] = field(default_factory=dict)

    def add(self, stage: Stage) -> None:
        """Take the next stage."""
        self.stages.append(stage)
        if stage.recipe.verb in CHECKPOINTS and not stage.recipe.study.seeds:
            self.written[stage.name] = stage


def layers_of(
    verb: str, body: dict[Any, Any], where: str, sets: list[str], own: Values
) -> list[Layer]:
    """What the file, its matrix and `--set` say of a stage, the weakest first."""
    varied: Layer = {}
    for key, value in own.items():
        section, _, leaf = key.partition(".")[2].rpartition(".")
        given = {section: {leaf: value}} if section else {leaf: value}
        more = from_mapping(verb, given, f"the matrix of {where}")
        if twice := next((path for path in more if path in varied), None):
            raise Usage(f"two keys of the matrix of {where} give {twice}: leave one of them out")
        varied |= more
    return [from_mapping(verb, body, where), varied, from_sets(verb, sets)]


def verb_of(body: dict[Any, Any], where: str) -> str:
    """The verb of a stage; raises Usage where it names none."""
    verb = body.get("verb")
    if not isinstance(verb, str) or verb not in VERBS:
        raise Usage(f"{where} needs a verb: {', '.join(VERBS)}")
    return verb


def stage_of(
    name: str,
    verb: str,
    where: str,
    layers: list[Layer],
    earlier: Earlier,
    own: frozenset[str],
    place: Place,
    folders: Folders,
) -> Stage:
    """A stage. `own`: the keys of the matrix that are its own."""
    new = any(layer.get("fresh.from_config", ("", None))[1] is not None for layer in layers)
    if not any("model" in layer for layer in layers) and earlier.written and not new:
        layers[0]["model"] = ("MODEL", f"@{next(reversed(earlier.written))}")
    uses = _resolve(layers, verb, where, earlier)
    keys = own.union(*(earlier.written[each].keys for each in uses))
    out = place(name, keys)
    if any(layer.pop("output.out", None) for layer in layers):
        raise Usage(f"{where} names output.out: leave it out, each stage is written to --out/NAME")
    if verb in WRITES:
        layers[0]["output.out"] = ("output.out", str(out))
    recipe = built(verb, layers, folders)
    _check_varied(recipe, layers[1], where, folders)
    if isinstance(recipe.compression.keep, tuple):
        raise Usage(f"{where} gives several budgets: a stage writes one checkpoint, so give one")
    if recipe.output.dry_run:
        raise Usage(f"{where} is a dry run, which writes nothing for the next stage to read")
    return Stage(name, recipe, out, uses, keys)


def check_plots(stages: Iterable[Stage]) -> None:
    """Raises Usage where two stages draw into one file, as all points of a matrix would."""
    drawn = dict[Path, str]()
    for stage in stages:
        if stage.recipe.profiling.plot:
            plot = path_of(stage.recipe.profiling.plot)
            if plot in drawn:
                raise Usage(
                    f"--plot {stage.recipe.profiling.plot} would be drawn for {drawn[plot]} and "
                    f"again for {stage.out}: leave it out, tlm compare draws the results"
                )
            drawn[plot] = str(stage.out)


def _check_varied(recipe: Recipe, varied: Layer, where: str, folders: Folders) -> None:
    """Raises Usage where a setting that excludes a key of the matrix has replaced its value: the
    point would have the name of a value that it was not made with."""
    known = settings(recipe.verb)
    for path, (name, raw) in varied.items():
        if path not in known or raw is None:
            continue
        value = convert(known[path].kind, known[path].rules, name, raw)
        value = folders.filled(value) if known[path].reads else value
        if reduce(getattr, path.split("."), recipe) != value:
            raise Usage(
                f"{path} of the matrix of {where} is replaced by another setting that is given "
                "with it: leave one of the two out"
            )


def _resolve(layers: list[Layer], verb: str, where: str, earlier: Earlier) -> frozenset[str]:
    """Replaces each model `@name` by the checkpoint of that stage; returns these names."""
    uses = set[str]()
    for path, setting in settings(verb).items():
        strongest = next((layer for layer in reversed(layers) if path in layer), None)
        known, value = ("", None) if strongest is None else strongest[path]
        if setting.reads not in ("model", "checkpoint") or not isinstance(value, str):
            continue
        if strongest is not None and value.startswith("@"):
            if value[1:] not in earlier.written:
                raise Usage(f"{where}: {value} names no earlier stage that writes a checkpoint")
            uses.add(value[1:])
            strongest[path] = (known, str(earlier.written[value[1:]].out))
    return frozenset(uses)
