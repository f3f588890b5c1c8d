"""What is built of a recipe file for `tlm run`: of one verb, of stages, or with a matrix."""

from collections.abc import Iterable
from pathlib import Path

from tlmtool.recipe.building import build
from tlmtool.recipe.points import sweep_of
from tlmtool.recipe.schema import Recipe
from tlmtool.recipe.stages import opened, stages_of


def recipes_of(file: Path, sets: Iterable[str] = ()) -> list[Recipe]:
    """The checked recipes of a file, those of all points of its matrix."""
    found, out = opened(file), Path("out")
    if found.matrix.values:
        points = sweep_of(found, out, sets, many=True).points
        return [stage.recipe for point in points for stage in point.stages]
    if found.single:
        return [build(next(iter(found.bodies)), None, sets, file)]
    return [stage.recipe for stage in stages_of(file, out, sets)]
