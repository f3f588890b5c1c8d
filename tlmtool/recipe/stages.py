"""The stages of a recipe file, checked before any of them runs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.files.notation import parse
from tlmtool.files.places import path_of
from tlmtool.recipe.folders import Folders, mentioned, taken
from tlmtool.recipe.launchers import launch_of
from tlmtool.recipe.matrix import KEYS, Matrix, Values, joined, matrix_of
from tlmtool.recipe.sources import read
from tlmtool.recipe.staging import Earlier, Place, Stage, check_plots, layers_of, stage_of, verb_of
from tlmtool.recipe.verbs import VERBS

__all__ = ["RecipeFile", "Stage", "opened", "stages_of"]

NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
MOST = 1000  # stages of a file; each more costs a check before the first one starts
WHOLE = ("stages", "cluster", *KEYS)  # keys of a file of stages


@dataclass(frozen=True)
class RecipeFile:
    """What a file says, before its settings are checked. `bodies`: {name: recipe of a stage}; a
    file of one verb has one stage with the name of the verb, and is `single`."""

    file: str
    where: str
    bodies: dict[str, dict[Any, Any]]
    matrix: Matrix
    single: bool = False
    out: str | None = None  # of a file of one verb, the folder that it names
    cluster: Mapping[str, Any] = field(default_factory=dict)  # what jobs of a cluster are given

    def stages(
        self,
        place: Place,
        sets: Iterable[str] = (),
        folders: Iterable[str] = (),
        values: Values | None = None,
    ) -> list[Stage]:
        """Its checked stages, with these values of its matrix. `place`: the folder of a stage, by
        its name and the keys of the matrix that it depends on. `folders` fill each `${NAME}`, as
        in `build`."""
        names = mentioned([self.bodies, self.matrix.values])
        ours, sets = taken(sets, names)
        filled = Folders.of([*folders, *ours], names, self.where)
        split, earlier = self._by_stage(sets), Earlier()
        for name, body in self.bodies.items():
            where = self.where if self.single else f"stage {name} of {self.where}"
            own = {k: v for k, v in (values or {}).items() if k.startswith(f"{name}.")}
            verb, body = verb_of(body, where), dict(body)
            launch = launch_of(body.pop("launch", None), verb, where)
            layers = layers_of(verb, body, where, split[name], own)
            stage = stage_of(name, verb, where, layers, earlier, frozenset(own), place, filled)
            earlier.add(replace(stage, launch=launch))
        return [
            replace(each, recipe=replace(each.recipe, file=self.file)) for each in earlier.stages
        ]

    def narrowed(self, sets: Iterable[str]) -> tuple["RecipeFile", list[str]]:
        """(the file, with one value of each key of its matrix that `--set` names; the others)"""
        matrix, others = self.matrix, list[str]()
        for text in sets:
            key, equals, raw = text.partition("=")
            key = f"{next(iter(self.bodies))}.{key.strip()}" if self.single else key.strip()
            if equals and key in matrix.values:
                matrix = matrix.narrowed(key, parse(raw, f"{text} in --set"))
            else:
                others.append(text)
        return replace(self, matrix=matrix), others

    def _by_stage(self, sets: Iterable[str]) -> dict[str, list[str]]:
        """{stage: its part of `--set`}"""
        names = [*self.bodies]
        split: dict[str, list[str]] = {name: [] for name in names}
        for text in sets:
            name, _, rest = (names[0], "", text) if self.single else text.partition(".")
            if name not in split:
                known = ", ".join(names[:8]) + (", ..." if names[8:] else "")
                raise Usage(
                    f"--set {text} does not begin with a stage ({known}): write it as "
                    f"{names[0]}.seed=1"
                )
            split[name].append(rest)
        return split


def opened(file: str | Path) -> RecipeFile:
    """A YAML file of stages or of one verb, perhaps with a matrix. Raises Usage for what is
    neither, NotLoadable for a file that cannot be read."""
    where, given = f"recipe {file}", read(file)
    if "stages" not in given and given.get("verb") in [*VERBS]:
        return _single(str(file), where, given)
    several = given.get("stages")
    if not {*given} <= {*WHOLE} or not isinstance(several, list) or not several:
        raise Usage(
            f"{where} is no pipeline: it should hold a list of stages under the key stages; a "
            f"recipe of one command runs with tlm VERB --recipe {file}, or here with its verb "
            "under the key verb"
        )
    if len(several) > MOST:
        raise Usage(f"{where} has {len(several):,} stages: a pipeline has at most {MOST:,}")
    bodies: dict[str, dict[Any, Any]] = {}
    matrices = [matrix_of(given, where)]
    for place, each in enumerate(several, 1):
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in bodies:
            raise Usage(f"stage {place} of {where} needs a name of its own, such as convert")
        bodies[name] = {key: value for key, value in each.items() if key not in ("name", *KEYS)}
        matrices.append(matrix_of(each, f"stage {name} of {where}", f"{name}."))
    matrix = joined(matrices, where)
    for key in matrix.values:
        if not isinstance(key, str) or key.partition(".")[0] not in bodies:
            raise Usage(f"{key} in the matrix of {where} does not begin with the name of a stage")
    order = [*bodies]
    matrix = matrix._replace(
        values=dict(
            sorted(matrix.values.items(), key=lambda each: order.index(each[0].partition(".")[0]))
        )
    )
    return RecipeFile(str(file), where, bodies, matrix, cluster=_cluster(given, where))


def _single(file: str, where: str, given: dict[Any, Any]) -> RecipeFile:
    verb = given["verb"]
    body = {key: value for key, value in given.items() if key not in ("cluster", *KEYS)}
    matrix, out = joined([matrix_of(given, where, f"{verb}.")], where, f"{verb}."), None
    if matrix.values and isinstance(output := body.get("output"), dict):
        body["output"] = {key: value for key, value in output.items() if key != "out"}
        out = output.get("out")
    out = out and str(out)
    return RecipeFile(file, where, {verb: body}, matrix, True, out, _cluster(given, where))


def _cluster(given: dict[Any, Any], where: str) -> dict[str, Any]:
    found = given.get("cluster") or {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise Usage(f"cluster in {where} must be keys of submitit, such as timeout_min")
    return found


def stages_of(
    file: str | Path, out: Path, sets: Iterable[str] = (), folders: Iterable[str] = ()
) -> list[Stage]:
    """The checked stages of a YAML file: a list `stages`, each a recipe with a `name` and a `verb`.

    A stage without a model uses what the last stage before it wrote; `@name` as a model is what
    the stage of that name wrote. `sets`: 'stage.section.key=value'. `folders` fill each `${NAME}`,
    as in `build`. Raises Usage for whatever is wrong in any stage, NotLoadable for a file that
    cannot be read.
    """
    found, out = opened(file), path_of(out)
    if found.matrix.values:
        raise Usage(f"{found.where} has a matrix: it is no single pipeline")
    stages = found.stages(lambda name, _: out / name, sets, folders)
    check_plots(stages)
    return stages
