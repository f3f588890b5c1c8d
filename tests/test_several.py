"""Several budgets of one model: each as by itself, kept through a kill, and shown together."""

import json
import os
import signal

import compressions
import pytest
from compressions import WRITE, arguments, made
from trainings import sentence, started

from tlmtool.cli import app, run
from tlmtool.commands import run as running
from tlmtool.compression.journal import Journal
from tlmtool.compression.statistics import Statistics
from tlmtool.failure import note_kept
from tlmtool.recipe.building import build
from tlmtool.report import plots

texts, models = compressions.texts, compressions.models  # its fixtures
KEEPS = ("0.8", "0.5", "0.3")


def front(out) -> list[dict]:
    """The dense model and the budgets. Between them is the dense model in 8 bits."""
    points = json.loads((out / "report.json").read_text())["front"]["points"]
    int8 = points.pop(1)
    assert int8["budget"] == "dense, int8" and int8["bytes"] < points[0]["bytes"]
    return points


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", []),
        ("llama", ["--method", "svd", "--fit", "once"]),
        ("t5", ["--calibration", "none"]),
    ],
)
def test_each_budget_is_as_by_itself(family, more, models, texts, tmp_path, monkeypatch):
    measured, shelved = [], Statistics._shelved
    monkeypatch.setattr(Statistics, "_shelved", lambda self: measured.append(1) or shelved(self))
    out = tmp_path / "out"
    words = ["--keep", ",".join(KEEPS), *more]
    assert run(arguments(models[family], texts, out, *words)) == 0
    assert len(measured) == ("none" not in more)
    for keep in KEEPS:
        alone = tmp_path / keep
        assert run(arguments(models[family], texts, alone, "--keep", keep, *more)) == 0
        assert made(alone) == made(out / f"keep-{keep}")
    dense, *points = front(out)
    report = json.loads((out / "keep-0.5" / "report.json").read_text())
    assert [each["budget"] for each in points] == [f"keep {keep}" for keep in KEEPS]
    assert points[1]["bytes"] == report["file_bytes"]["after"]
    assert points[1]["quality"] == report["quality"]["after"]
    assert dense["quality"] == report["quality"]["before"] and dense["share"] == 1
    assert points[0]["bytes"] > points[1]["bytes"] > points[2]["bytes"]
    names = {each.name for each in out.iterdir()}
    assert names == {"README.md", "front.png", "page.html", "recipe.yaml", "report.json"} | {
        f"keep-{keep}" for keep in KEEPS
    }
    again = build("compress", recipe_file=out / "recipe.yaml")
    assert again.compression.keep == (0.8, 0.5, 0.3)


def killed(given) -> None:
    """A run that is killed in its second budget."""
    words, groups = given

    def write(self, *more):
        WRITE(self, *more)
        if "keep-0.5" in str(self.folder) and len(self.groups) == groups:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.write = write  # of this process alone
    run(words)


def test_a_killed_run_goes_on_with_the_budgets_that_are_left(models, texts, tmp_path, capfd):
    whole, out = tmp_path / "whole", tmp_path / "out"
    keeps = ["--keep", "0.8,0.5"]
    assert run(arguments(models["bert"], texts, whole, *keeps)) == 0
    words = arguments(models["bert"], texts, out, *keeps)
    process = started(killed, (words, 3))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = (out / "keep-0.8" / "report.json").stat().st_mtime_ns
    assert not (out / "keep-0.5").exists()
    capfd.readouterr()
    assert run(words) == 2 and "--resume keeps the budgets that are done" in sentence(capfd)
    assert run([*words, "--resume"]) == 0
    assert (out / "keep-0.8" / "report.json").stat().st_mtime_ns == done
    for keep in ("0.8", "0.5"):
        assert made(out / f"keep-{keep}") == made(whole / f"keep-{keep}")
    assert run(arguments(models["bert"], texts, out, "--keep", "0.8,0.3,0.5", "--resume")) == 0
    assert [each["budget"] for each in front(out)[1:]] == ["keep 0.8", "keep 0.3", "keep 0.5"]


def test_budgets_of_another_recipe_are_refused_before_any_work(models, texts, tmp_path, capfd):
    out = tmp_path / "out"
    words = arguments(models["bert"], texts, out, "--method", "svd", "--keep")
    assert run([*words, "0.8,0.5"]) == 0
    before = (out / "report.json").read_bytes()
    capfd.readouterr()
    assert run([*words, "0.9,0.5", "--seed", "7", "--resume"]) == 2
    told = sentence(capfd)
    assert f"{out / 'keep-0.5'} holds a finished run with seed 0, not 7" in told
    assert (out / "report.json").read_bytes() == before and not (out / "keep-0.9").exists()


def test_a_budget_that_fails_does_not_lose_the_others(models, texts, tmp_path, capfd, monkeypatch):
    save = running.save

    def full(model, out, **more):
        if out.name == "keep-0.5":
            raise OSError(28, "No space left on device")
        return save(model, out, **more)

    monkeypatch.setattr(running, "save", full)
    out = tmp_path / "out"
    words = arguments(models["bert"], texts, out, "--keep", "0.8,0.5,0.3")
    assert run(words) == 1
    told = capfd.readouterr()
    assert "the disk is full" in told.err and "keep 0.5 failed" in told.out
    points = {each["budget"]: each for each in front(out)}
    assert "No space left" in points["keep 0.5"]["failed"] and points["keep 0.3"]["bytes"]
    monkeypatch.undo()
    assert run([*words, "--resume"]) == 0
    assert "failed" not in {key for each in front(out) for key in each}


def test_a_dry_run_predicts_each_size(models, texts, tmp_path, capsys):
    words = arguments(models["bert"], texts, tmp_path / "out", "--keep", "0.8,0.5", "--dry-run")
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] and not (tmp_path / "out").exists()
    for each in found["front"]["points"][1:]:
        keep = each["budget"].removeprefix("keep ")
        assert (
            run([*arguments(models["bert"], texts, "x", "--keep", keep), "--dry-run", "--json"])
            == 0
        )
        alone = json.loads(capsys.readouterr().out)
        assert each["parameters"] == alone["parameters"]["after"]


def test_a_check_holds_for_each_budget(models, texts, tmp_path, capfd):
    words = arguments(models["bert"], texts, tmp_path / "out", "--keep", "0.8,0.5")
    assert run([*words, "--fail-if", "parameters.keep<0.6"]) == 3
    assert "keep 0.5: check failed: parameters.keep is" in sentence(capfd)
    assert run([*words, "--resume", "--fail-if", "parameters.keep<0.1"]) == 0
    assert run([*words, "--resume", "--fail-if", "front.points.2.share<1"]) == 3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--keep", "0.8,1.5"], "each of --keep must be a number above 0 and below 1"),
        (["--keep", "0.8,"], "each of --keep must be a number"),
        (["--keep", "0.8,0.0001"], "--keep 0.0001 leaves"),
        (["--keep", "0.8,0.5", "--attention", "dimensionwise"], "give one --keep"),
        (["--keep", "0.8,0.5", "--resume", "--overwrite"], "give one of the two"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(more, says, models, texts, tmp_path, capfd):
    assert run(arguments(models["bert"], texts, tmp_path / "out", *more)) == 2
    assert says in sentence(capfd) and not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(models, texts, tmp_path, capfd):
    out = tmp_path / "out"
    words = arguments(models["bert"], texts, out, "--keep", "0.5")
    assert run(words) == 0
    capfd.readouterr()
    words = arguments(models["bert"], texts, out, "--keep", "0.8,0.5")
    for more in ([], ["--resume"], ["--overwrite"]):
        assert run([*words, *more]) == 2
        assert "which is of no such budgets" in sentence(capfd)


def test_overwriting_leaves_no_budget_of_the_run_before(models, texts, tmp_path, capfd):
    out, more = tmp_path / "out", ["--calibration", "none", "--method", "svd"]
    assert run(arguments(models["bert"], texts, out, "--keep", "0.8,0.5,0.4", *more)) == 0
    (out / "keep-0.4" / "notes").write_text("mine")
    words = arguments(models["bert"], texts, out, "--keep", "0.8,0.3", *more)
    assert run([*words, "--overwrite"]) == 0
    assert "keep-0.4 stays, because it holds notes" in capfd.readouterr().err
    assert {each.name for each in out.glob("keep-*")} == {"keep-0.8", "keep-0.4", "keep-0.3"}


@pytest.mark.parametrize("words", [["--keep", "0.8,0.5"], ["--keep=0.8,0.5"], ["--keep", "0.8"]])
def test_the_command_that_goes_on_is_one_that_can(words):
    """Several budgets refuse both flags, as what they replace is gone."""
    error = KeyboardInterrupt()
    note_kept(error, "1 of 2 budgets are done")
    told = app._going_on(error, ["compress", "m", *words, "--overwrite"])
    assert told.endswith("--resume") and ("--overwrite" in told) == ("," not in words[-1])


def test_without_matplotlib_there_is_no_picture(models, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "drawable", lambda: False)
    out = tmp_path / "out"
    assert run(arguments(models["bert"], texts, out, "--keep", "0.8,0.5")) == 0
    report = json.loads((out / "report.json").read_text())
    assert "front.png is not drawn" in report["warnings"][-1]
    assert not (out / "front.png").exists() and "front.png)" not in (out / "README.md").read_text()


@pytest.mark.parametrize("more", ["--overwrite", "--resume"])
def test_files_of_a_user_with_our_names_are_left_alone(more, models, texts, tmp_path, capfd):
    (out := tmp_path / "out").mkdir()
    mine = {out / name: name for name in ("README.md", "page.html", "report.json")}
    for file, text in mine.items():
        file.write_text(text)
    assert run([*arguments(models["bert"], texts, out, "--keep", "0.8,0.5"), more]) == 2
    assert "no report of budgets" in sentence(capfd)
    (out / "report.json").write_text('{"schema_version": 1, "front": {}}')
    mine.pop(out / "report.json")
    assert run([*arguments(models["bert"], texts, out, "--keep", "0.8,0.5"), more]) == 2
    assert "holds page.html, which tlm did not write" in sentence(capfd)
    assert all(file.read_text() == text for file, text in mine.items())
