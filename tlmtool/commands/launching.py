"""A stage in several processes, which torchrun or accelerate starts."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tlmtool.commands.notes import REPORT
from tlmtool.failure import Failure
from tlmtool.recipe import building as recipes
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.launchers import MODULES
from tlmtool.report.kept import read_report
from tlmtool.report.report import Report

SAID = "tlm: "  # how the sentence of a failure begins


def launched(recipe: Recipe, launch: tuple[str, ...], out: Path) -> Report:
    """The report of a recipe that is performed by what `launch` starts, into the folder `out`.
    Raises Failure where that ends otherwise than well. The report is to be checked here: a launcher
    has one exit code for every failure."""
    recipe = replace(recipe, output=replace(recipe.output, fail_if=None))
    with tempfile.TemporaryDirectory(prefix="tlm-") as place:
        file = Path(place) / "recipe.yaml"
        file.write_text(recipes.dump(recipe), encoding="utf-8")
        words = command_of(launch, [recipe.verb, "--recipe", str(file), "--quiet"])
        code, last = _performed(words)
    if code:
        program = " ".join(launch[:3])
        why = last or "it said nothing"
        raise Failure(f"{program} ended with exit code {code}: {why}")
    return read_report(out / REPORT, recipe.verb)


def command_of(launch: tuple[str, ...], words: list[str]) -> list[str]:
    """The whole command that starts `tlm WORDS`. torchrun reads what looks like its own flags up to
    a `--`."""
    program, *given = launch
    start = [sys.executable, "-m", MODULES[program], *given, "-m"]
    return [*start, *(["--"] if program == "torchrun" else []), "tlmtool", *words]


def _performed(words: list[str]) -> tuple[int, str]:
    """(exit code of a command, the sentence of its failure); what it logs is shown as it comes."""
    last = ""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                if line.startswith(SAID):
                    last = line.removeprefix(SAID).strip()
            return process.wait(), last
        except BaseException:
            process.terminate()
            raise
