"""Every benchmark can be started: what it imports is there, and its docstring shows a command."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from tlmtool.recipe.building import build

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [file for file in FOLDER.glob("*.py") if "__main__" in file.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_what_it_imports_is_there(script, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # which some set before torch is imported
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    try:
        made = importlib.import_module(script.stem)
        assert Path(made.__file__) == script
        assert f"python benchmarks/{script.name}" in made.__doc__
    finally:
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) in map(str, FOLDER.glob("*.py")):
                del sys.modules[name]


def test_flags_of_the_variants_of_gain_are_those_there_are(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from gain_variants import VARIANTS

    for variant in VARIANTS.values():
        made = build("finetune", {"model": "m", "task": "grammar"} | variant.strategy)
        assert made.strategy.name == variant.strategy.get("strategy", "none")
    sys.modules.pop("gain_variants")
