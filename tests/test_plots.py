"""Pictures of `tlm profile --attention`: what they show, and that they are whole or not there."""

import re
import sys

import pytest

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.cli import run
from tlmtool.commands import kernels
from tlmtool.measuring import complexity as measuring
from tlmtool.measuring.complexity import Case, Softmax, complexity
from tlmtool.report import plots
from tlmtool.report.building import built
from tlmtool.report.parts.complexity import Complexity
from tlmtool.report.report import Report
from tlmtool.report.views import views

SMALL = ("--heads", 2, "--head-width", 4, "--runs", 1)
KERNELS = {"softmax": Softmax(), "dimensionwise": DimensionWise(), "multilinear": MultiLinear()}
CASE = Case(heads=2, width=4, features=8)


def tlm(*args):
    return run(["profile", *map(str, args)])


PICTURE = ("--attention", "softmax,dimensionwise,multilinear", *SMALL, "-q")


@pytest.mark.parametrize(
    ("name", "starts"), [("a.png", b"\x89PNG"), ("b/c/d.PDF", b"%PDF"), ("e.svg", b"<?xml")]
)
def test_a_picture_is_drawn_and_nothing_else_is_left(tmp_path, capsys, name, starts):
    file = tmp_path / name
    for lengths in ("8,16,32", "8"):  # the second replaces the first
        assert tlm(*PICTURE, "--seq-len", lengths, "--plot", file) == 0
        assert file.read_bytes().startswith(starts)
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]
        assert f"-> {file}" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("name", ["thesis.pdf", "figure.png", "drawing.svg"])
def test_a_file_that_tlm_did_not_draw_is_kept(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(kernels, "case_of", lambda *_: pytest.fail("is at work"))
    (tmp_path / name).write_bytes(b"%PDF-1.7 a year of work")
    assert tlm(*PICTURE, "--seq-len", "8", "--plot", tmp_path / name) == 2
    assert f"--plot {tmp_path / name} exists, and tlm did not draw it" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"%PDF-1.7 a year of work"


def test_a_picture_shows_each_kernel_with_its_exponent(tmp_path):
    found = built(Complexity, complexity(KERNELS, [8, 32], CASE, 1))
    plots.complexity(found, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for name in KERNELS:
        assert len(re.findall(rf"<!-- {name} +\$N\^", text)) == 3  # of three legends
    assert "FLOPs (counted)" in text and "length N (tokens)" in text
    assert "forward, both ways, batch 1, 2 heads of width 4" in text
    assert "by processor time instead of the clock: softmax $N^{" in text
    assert plots._mathematical(1.9999) == "$N^{2.00}$" and plots._mathematical(None) == ""


def test_what_was_not_measured_is_not_drawn(tmp_path):
    found = complexity({"softmax": Softmax()}, [8, 16], CASE, 1)
    for each in found["kernels"]["softmax"]["runs"]:
        each["peak_memory_bytes"] = None  # a device that does not tell
    found = built(Complexity, found)
    plots.complexity(found, tmp_path / "a.png")
    titles = [view.title for view in views(Report("profile", [found]))]
    assert titles == ["FLOPs (counted)", "time (measured, median)"]


def test_a_killed_write_leaves_nothing(tmp_path, monkeypatch):
    found = built(Complexity, complexity({"softmax": Softmax()}, [8], CASE, 1))
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(*_):
        raise OSError("gone")

    monkeypatch.setattr(plots.os, "replace", fail)
    with pytest.raises(OSError, match="gone"):
        plots.complexity(found, tmp_path / "a.png")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_without_matplotlib_nothing_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(measuring, "peak", lambda *_: pytest.fail("was measured"))
    assert tlm(*PICTURE, "--plot", tmp_path / "a.png") == 5
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "tlm: --plot needs the plots extra: pip install 'tlmtool[plots]'\n"
    )
