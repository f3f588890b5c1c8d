"""The fronts of size and time: each row is a command of tlm, and what bits alone miss is told."""

import os
import sys
from pathlib import Path

import pytest

from tlmtool.recipe.building import build
from tlmtool.recipe.verbs import VERBS

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """(benchmarks/fronts.py, its table), imported as they are run."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    import fronts
    import fronts_table

    yield fronts, fronts_table
    for name in set(sys.modules) - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def row(name: str, size: float, perplexity: float, time: float | None = 1.0, **more) -> dict:
    times = {key: {"this": time, "dense": 1.0} for key in ("prefill", "decode")}
    more |= {"milliseconds": times} if time else {}
    figures = {"file_bytes": size, "bits_per_weight": 8.0, "perplexity": perplexity, "loss": 3.0}
    return {"row": name, "model": "m", **figures, **more}


def test_every_row_is_a_command_made_from_an_earlier_row(scripts):
    known = ["dense"]
    for name, (source, (verb, *rest)) in scripts[0].ROWS.items():
        assert source in known and verb in VERBS
        flags = zip(rest, [*rest[1:], "--"], strict=True)  # one without a value comes before "--"
        given = {f[2:]: v if v[:2] != "--" else True for f, v in flags if f[:2] == "--"}
        build(verb, {"model": "m", **given})
        known.append(name)


def test_what_bits_alone_do_not_reach(scripts):
    """In a figure and in perplexity at once; an equal row reaches it."""
    rows = [
        row("dense", 100, 10.0),
        row("int8", 50, 10.0, None, timed_as="dense"),
        row("keep 0.8", 80, 11.0, 0.8),
        row("keep 0.8, int8", 40, 11.0, None, timed_as="keep 0.8"),
        row("keep 0.6", 50, 10.0, 1.0),
        {"row": "keep 0.5", "model": "m", "failed": "no memory"},
    ]
    size, prefill, decode = scripts[1].beyond(rows)
    assert size == "bytes on disk: bits alone do not reach keep 0.8, int8"
    assert all(each.endswith("reach keep 0.8; keep 0.8, int8") for each in (prefill, decode))
    assert scripts[1].beyond(rows[:2])[0].endswith("do not reach none")
    assert "| keep 0.5 | no memory |" in scripts[1].markdown(rows)


def test_the_picture_has_every_row(scripts, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row("dense", 100, 10.0), row("int8", 50, 10.5), row("keep 0.8", 80, 11.0, 0.8)]
    scripts[1].picture(rows, tmp_path / "front.svg")
    assert (tmp_path / "front.svg").stat().st_size > 1000
