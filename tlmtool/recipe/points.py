"""The points of a recipe file with a matrix: their stages, and which of them reads which."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tlmtool.failure import Usage
from tlmtool.files.places import path_of
from tlmtool.recipe.building import to_dict
from tlmtool.recipe.matrix import Values, label
from tlmtool.recipe.stages import RecipeFile, Stage
from tlmtool.recipe.staging import check_plots

SHARED = "shared"  # the folder of stages that depend on no key of the matrix
ASK = 200  # points; for more a user must say that they are meant


@dataclass(frozen=True)
class Point:
    """Values of a matrix, and the stages whose results depend on just these. `after`: the points
    whose results they read."""

    name: str
    values: dict[str, str]
    stages: tuple[Stage, ...] = ()
    after: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Sweep:
    """The points of a file, each after those that it reads. `count`: the combinations of values;
    `single`: each point is one result, which is its folder, and not a folder of stages."""

    out: Path
    points: tuple[Point, ...]
    count: int
    single: bool


@dataclass(frozen=True)
class _Folders:
    """The folder of each stage, with these values of the matrix."""

    file: RecipeFile
    out: Path
    values: Values

    def texts(self, keys: Iterable[str]) -> dict[str, str]:
        return self.file.matrix.texts({key: self.values[key] for key in keys})

    def name(self, keys: Iterable[str]) -> str:
        return label(self.texts(keys)) or SHARED

    def __call__(self, stage: str, keys: frozenset[str]) -> Path:
        folder = self.out / self.name(keys)
        return folder if self.file.single else folder / stage


def sweep_of(
    file: RecipeFile,
    out: Path,
    sets: Iterable[str] = (),
    folders: Iterable[str] = (),
    many: bool = False,
) -> Sweep:
    """The points of a file with a matrix, checked.

    A stage depends on its own keys of the matrix and on those of the stages that it reads. Its
    result lies in the folder named by these values, so that combinations which differ in other
    keys share it. `sets` of a key of the matrix leaves it that value. `many`: more than 200 points
    are meant. Raises Usage as `RecipeFile.stages`.
    """
    file, sets = file.narrowed(sets)
    out, folders = path_of(out), [*folders]
    found, recipes = dict[str, Point](), dict[str, str]()
    combinations = file.matrix.points(file.where)
    if len(combinations) > ASK and not many:
        raise Usage(f"{file.where} has {len(combinations):,} points: --yes if they are all meant")
    for values in combinations:
        place = _Folders(file, out, values)
        made = {stage.name: stage for stage in file.stages(place, sets, folders, values)}
        names = {name: place.name(stage.keys) for name, stage in made.items()}
        for stage in made.values():
            name = names[stage.name]
            point = found.get(name) or Point(name, place.texts(stage.keys))
            if stage.name not in {each.name for each in point.stages}:
                after = point.after | {names[each] for each in stage.uses} - {name}
                found[name] = replace(point, stages=(*point.stages, stage), after=after)
                if (twin := recipes.setdefault(_said(stage), name)) != name:
                    raise Usage(
                        f"{twin} and {name} of {file.where} say the same: give each value once"
                    )
    check_plots(stage for point in found.values() for stage in point.stages)
    ordered = sorted(found.values(), key=lambda point: len(point.values))  # it reads only smaller
    return Sweep(out, tuple(ordered), len(combinations), file.single)


def _said(stage: Stage) -> str:
    """All that is said of a stage but its folder."""
    tree = to_dict(replace(stage.recipe, output=replace(stage.recipe.output, out=None)))
    return json.dumps([stage.name, tree], default=str)
