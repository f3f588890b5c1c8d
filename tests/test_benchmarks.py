"""Every benchmark can be started: what it imports is there, and its docstring shows a command."""

import importlib
import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import sentences
from front_door import saved

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


@pytest.mark.parametrize(("family", "head"), [("bert", "base"), ("llama", "lm")])
def test_each_row_of_converting_trains_all_weights(family, head, tmp_path, monkeypatch):
    """The dense model is the teacher of all rows, which freezes it: its copies must not be."""
    saved(tmp_path / family, family, head)
    monkeypatch.syspath_prepend(str(FOLDER))
    import converting

    (tmp_path / "train.txt").write_text("\n".join(sentences(480)) + "\n")
    rows = [f"{i}\t{a}\t{b}\t{i % 5}" for i, (a, b) in enumerate(pairwise(sentences(90)))]
    for name, part in (("train.tsv", rows[:60]), ("dev.tsv", rows[60:])):
        (tmp_path / name).write_text("\n".join(["index\tsentence1\tsentence2\tscore", *part]))
    data = tmp_path if family == "bert" else tmp_path / "train.txt"
    words = ["--out", tmp_path / "rows.json", "--model", tmp_path / family, "--data", data]
    words += ["--kernels", "cosine", "--steps", 2, "--batch", 4, "--length", 8]
    monkeypatch.setattr(sys, "argv", ["converting.py", *map(str, words)])
    trained, distilled = list[set[str]](), converting.distilled

    def watched(recipe, model, *more):
        held = {name: x.clone() for name, x in model.named_parameters()}
        found = distilled(recipe, model, *more)
        after = dict(model.named_parameters())
        trained.append({name for name, x in held.items() if not x.equal(after[name])})
        return found

    monkeypatch.setattr(converting, "distilled", watched)
    converting.main()
    (first,) = trained
    assert any("embed" in name for name in first)
    assert any("attention" in name or "attn" in name for name in first)
    sys.modules.pop("converting")
