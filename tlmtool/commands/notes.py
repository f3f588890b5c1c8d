"""What made each result of a pipeline: the notes by which `--resume` knows what is done."""

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from tlmtool.data.fingerprints import changed
from tlmtool.failure import NotLoadable, Usage
from tlmtool.files import kept
from tlmtool.files.kept import Kept
from tlmtool.files.reading import sha256
from tlmtool.files.writing import write_whole
from tlmtool.recipe.building import to_dict
from tlmtool.recipe.inputs import spelled
from tlmtool.recipe.stages import Stage

REPORT = "report.json"  # in the folder of a stage that is done
LIST = "stages.json"  # in the folder of a pipeline: the recipe and the inputs of each result
FORMAT = 3  # version of that file; with another number, older folders can only be replaced

Notes = dict[str, dict[str, Any]]  # {stage: its note}


@dataclass(frozen=True)
class Place:
    """Where the results of stages lie. `root`: the folder of them all; `names`: what they may be
    called in it; `file`: that of the notes."""

    root: Path
    names: frozenset[str]
    file: Path


def identity_of(stage: Stage, place: Place) -> dict[str, Any]:
    """The settings that an earlier result must share with this stage, and the version of tlm.
    Where it lies and how it is checked are not among them."""
    tree = {key: value for key, value in spelled(to_dict(stage.recipe)).items() if key != "output"}
    plain = json.dumps(tree).replace(json.dumps(f"{place.root}/")[:-1], '"@')
    return {"recipe": json.loads(plain), "tlm": version("tlmtool")}


def mark_of(stage: Stage) -> str | None:
    """The checksum of a stage's report, which marks its result; None without one."""
    file = stage.out / REPORT
    return sha256(file) if file.is_file() else None


def compare(stage: Stage, note: dict[str, Any] | None, identity: dict[str, Any]) -> None:
    """Raises Usage for a result that this stage did not make and that it must not replace."""
    there, whole = mark_of(stage), not stage.recipe.study.seeds  # a study grows in its place
    if there is None and whole and stage.out.is_dir() and any(stage.out.iterdir()):
        raise Usage(f"{stage.out} is not empty, and holds no result of a stage: move it away")
    if there is None or (note and note.get("replaces") == there):
        return
    if note is None or note.get("recipe") != identity["recipe"]:
        raise Usage(f"{stage.out} was made by another recipe: --overwrite replaces it")
    if note.get("tlm") != identity["tlm"]:
        raise Usage(
            f"{stage.out} was made by tlm {note.get('tlm')}, and this is {identity['tlm']}: "
            "--overwrite replaces it"
        )
    if "inputs" in identity and note.get("inputs") != identity["inputs"]:
        which = changed(note.get("inputs"), identity["inputs"])
        raise Usage(
            f"{stage.out} was made before {which} was changed: put that back, or --overwrite "
            "replaces what was made"
        )


def done(stage: Stage, note: dict[str, Any] | None) -> bool:
    """Whether the result of a stage is there, and is not one that it was to replace."""
    there = mark_of(stage)
    return bool(there and note and note.get("replaces") != there)


class _Note(Kept):
    """The note on a stage before it runs: its recipe, the version of tlm, the files that it reads,
    and the mark of the earlier result that it replaces."""

    recipe: dict[str, Any] | None = None
    tlm: str | None = None
    inputs: dict[str, dict[str, str]] | None = None
    replaces: str | None = None


class _List(Kept):
    format: int = 1  # files of the first version do not say it
    stages: dict[str, _Note] = Field(default_factory=dict)


def kept_notes(file: Path, overwrite: bool) -> Notes | None:
    """The notes in a file; None where there is none.

    Raises NotLoadable for a file that is no list of stages, Usage for one of another version."""
    if not os.path.lexists(file):
        return None
    told = ("is no list of a pipeline's stages", "give another --out")
    found = kept.read(file, _List, *told)
    old = bool(found) and all(isinstance(x, dict) and "verb" in x for x in found.values())
    if "stages" not in found if "format" in found else not old:
        raise NotLoadable(f"{file} {': '.join(told)}")
    if found.get("format") != FORMAT and not overwrite:
        raise Usage(
            f"{file.parent} holds a pipeline of another version of tlm: --overwrite replaces it"
        )
    return found.get("stages", {})


def keep_notes(file: Path, notes: Notes) -> None:
    """Write the notes, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"format": FORMAT, "stages": notes}, indent=1) + "\n")
