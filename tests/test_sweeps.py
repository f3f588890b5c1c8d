"""`tlm run` over a matrix: each point once, failures named, resumed, replaced, shown on a page."""

import fcntl
import json
import os
from pathlib import Path

import compressions
import pytest
from trees import made

from tlmtool.cli import run
from tlmtool.commands import run as running
from tlmtool.commands.compare import reports_in

RANK = {"rank": 2, "sites": "*.0.attention.self.query"}
inputs = compressions.inputs  # a fixture


@pytest.fixture
def single(inputs, tmp_path) -> Path:
    file = tmp_path / "single.yaml"
    matrix = {"compression.rank": [2, 4], "compression.method": ["svd", "tucker"]}
    tree = {"verb": "compress", "model": inputs["model"], "compression": RANK, "matrix": matrix}
    tree |= {"calibration": {"text": inputs["text"]}}
    left = [{"compression.rank": 4, "compression.method": "tucker"}]
    file.write_text(json.dumps(tree | {"exclude": left}))
    return file


def test_points_of_one_verb_are_made_once_and_shown_together(single, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", str(single), "--out", str(out)]
    assert run(words) == 0
    shown, told = capsys.readouterr()
    assert f"side by side: {out / 'page.html'}" in told
    names = ["rank=2,method=svd", "rank=2,method=tucker", "rank=4,method=svd"]
    assert all(name in shown for name in names) and "rank=4,method=tucker" not in shown
    assert all(name in (out / "page.html").read_text() for name in names)
    found = json.loads((out / "report.json").read_text())
    assert [each["name"] for each in found["points"]] == names
    assert all(each["parameters"] > 0 and each["metric"] == "loss" for each in found["points"])
    assert len(reports_in(out)) == 4
    before = {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in names}
    whole = made(out)
    assert run(words) == 2 and "--resume" in capsys.readouterr().err
    assert run([*words, "--resume", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 3
    assert made(out) == whole
    after = {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in names}
    assert before == after
    assert run([*words, "--overwrite"]) == 0
    changed = {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in names}
    assert all(changed[name] != after[name] for name in names)
    weights = [name for name in whole if name.endswith(".safetensors")]
    assert len(weights) == 3 and all(made(out)[name] == whole[name] for name in weights)


def test_a_failure_is_named_and_the_rest_goes_on(single, tmp_path, capsys):
    tree = json.loads(single.read_text())
    tree["matrix"]["compression.rank"][1] = 900  # above every mode, which the model tells
    tree["exclude"] = []
    single.write_text(json.dumps(tree))
    out = tmp_path / "out"
    assert run(["run", str(single), "--out", str(out), "-q"]) == 1
    shown = capsys.readouterr()
    assert "2 of 4 points failed: rank=900,method=svd, rank=900,method=tucker" in shown.err
    points = {
        each["name"]: each for each in json.loads((out / "report.json").read_text())["points"]
    }
    assert "rank 900 is above" in points["rank=900,method=svd"]["failed"]
    assert (out / "rank=2,method=tucker" / "report.json").exists()
    assert shown.out.count("rank 900 is above") == 2


def test_another_recipe_another_version_or_a_foreign_folder_is_refused(
    single, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    words = ["run", str(single), "--out", str(out), "-q"]
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert run(words) == 2 and "holds no sweep" in capsys.readouterr().err
    (out / "mine.txt").unlink()
    assert run(words) == 0
    assert run([*words, "--resume", "--set", "seed=3"]) == 2
    assert "another recipe" in capsys.readouterr().err
    monkeypatch.setattr("tlmtool.commands.notes.version", lambda _: "9.9")
    assert run([*words, "--resume"]) == 2 and "this is 9.9" in capsys.readouterr().err
    (tmp_path / "texts.txt").write_text("the cat sat\n" * 20)
    monkeypatch.undo()
    assert run([*words, "--resume"]) == 1
    assert "texts.txt (calibration.text) was changed" in capsys.readouterr().out


def test_a_refused_overwrite_changes_nothing(single, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", str(single), "--out", str(out), "-q"]
    assert run(words) == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    (mine := out / "rank=4,method=svd" / "mine.txt").write_text("mine")
    assert run([*words, "--overwrite"]) == 2 and "mine.txt" in capsys.readouterr().err
    mine.unlink()
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def failing(monkeypatch, at: str, error: BaseException) -> None:
    """From now on a compression into a folder of this name ends with an error."""
    save = running.save

    def fails(model, out, **more):
        if out.name == at:
            raise error
        return save(model, out, **more)

    monkeypatch.setattr(running, "save", fails)


def test_a_point_that_fails_does_not_pass_off_its_earlier_result(
    single, tmp_path, capsys, monkeypatch
):
    out, at = tmp_path / "out", "rank=2,method=tucker"
    words = ["run", str(single), "--out", str(out)]
    assert run(words) == 0
    failing(monkeypatch, at, OSError(28, "No space left on device"))
    (out / "logs").mkdir()
    for name in (at, "rank=2,method=svd"):
        (out / "logs" / f"{name}.log").write_text("of an earlier run")
    assert run([*words, "--overwrite"]) == 1
    told = f"{at}: the disk is full; free some space; its folder holds the result of an earlier run"
    shown = capsys.readouterr()
    assert told in " ".join(shown.out.split()) and "--resume tries them again" in shown.err
    assert f"failed: {told}" in (out / "page.html").read_text()
    assert (out / at / "report.json").exists() and str(out / at) not in reports_in(out)
    assert os.listdir(out / "logs") == [f"{at}.log"]
    monkeypatch.undo()
    assert run([*words, "--resume"]) == 0 and "failed" not in (out / "page.html").read_text()
    assert len(reports_in(out)) == 4 and os.listdir(out) and not (out / "logs").exists()


def test_where_all_points_fail_the_page_says_so(single, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["run", str(single), "--out", str(out), "-q"]) == 0
    words = ["run", str(single), "--out", str(out), "-q", "--overwrite"]
    assert run([*words, "--set", "compression.sites=nowhere"]) == 1
    told = capsys.readouterr().err
    assert "change what they were refused for" in told and "tries them again" not in told
    page = (out / "page.html").read_text()
    assert page.count("failed: rank=") == 3 and "<table" not in page and "nowhere" in page


def test_an_interruption_tells_of_points(single, tmp_path, capsys, monkeypatch):
    failing(monkeypatch, "rank=2,method=tucker", KeyboardInterrupt())
    assert run(["run", str(single), "--out", str(tmp_path / "out"), "-q"]) == 130
    assert "1 of 3 points are done: go on with" in capsys.readouterr().err


FOREIGN = ("sweep.json", "report.json", "page.html", "rank=2,lr=0.001/report.json")


@pytest.mark.parametrize("more", ["--overwrite", "--resume"])
@pytest.mark.parametrize("name", [*FOREIGN, "rank=2,lr=0.001/scored/report.json"])
def test_files_of_a_user_with_our_names_are_left_alone(name, more, several, tmp_path, capsys):
    (out := tmp_path / "out").mkdir()
    (out / "sweep.json").write_text(json.dumps({"format": 1, "points": {}}))
    (mine := out / name).parent.mkdir(parents=True, exist_ok=True)
    mine.write_text('{"mine": 1}')
    before = made(out)
    assert run(["run", str(several), "--out", str(out), "-q", more]) == 2
    assert mine.name in capsys.readouterr().err
    assert made(out) == before and mine.read_text() == '{"mine": 1}'


def test_a_point_that_a_job_of_an_earlier_run_is_making_is_left_alone(single, tmp_path, capsys):
    note = tmp_path / "out" / "points" / "rank=4,method=svd.json"
    note.parent.mkdir(parents=True)
    (tmp_path / "out" / "sweep.json").write_text(json.dumps({"format": 1, "points": {}}))
    with note.with_name(f".{note.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(["run", str(single), "--out", str(tmp_path / "out"), "-q", "--resume"]) == 2
    assert f"another run is writing {note}" in capsys.readouterr().err
    assert not note.exists() and not list(tmp_path.glob("out/*/report.json"))


@pytest.fixture
def several(inputs, tmp_path) -> Path:
    """Four stages and a 2 x 2 matrix, of which the first two stages depend on one key."""
    data = {"task": "mlm", "data": inputs["text"]}
    tune = {**data, "steps": 3, "batch": 4, "save_every": 1}
    stages = [
        {"name": "smaller", "verb": "compress", "model": inputs["model"], "compression": RANK}
        | {"calibration": {"text": "none"}, "matrix": {"compression.rank": [2, 4]}},
        {"name": "dense", "verb": "merge"},
        {"name": "tuned", "verb": "finetune", "model": "@smaller", "training": tune},
        {"name": "scored", "verb": "evaluate", "evaluation": data},
    ]
    file = tmp_path / "several.yaml"
    file.write_text(json.dumps({"stages": stages, "matrix": {"tuned.training.lr": [1e-3, 1e-4]}}))
    return file


def test_stages_that_do_not_depend_on_a_key_run_once(several, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", str(several), "--out", str(out), "-q"]
    assert run(words) == 0
    held = sorted(str(each.parent.relative_to(out)) for each in out.glob("*/*/report.json"))
    lrs = [f"rank={rank},lr={lr}" for rank in (2, 4) for lr in (0.0001, 0.001)]
    points = [f"{point}/{stage}" for point in lrs for stage in ("scored", "tuned")]
    assert held == sorted(
        [*points, *(f"rank={r}/{s}" for r in (2, 4) for s in ("dense", "smaller"))]
    )
    assert len(reports_in(out)) == 1 + 6 + 12
    page = (out / "page.html").read_text()
    assert f"{lrs[0]}/tuned" in page and "rank=4/smaller" in page
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    again = [*words, "--resume", "--set", f"smaller.model={tmp_path / 'other'}"]
    assert run(again) == 2 and "another recipe" in capsys.readouterr().err


def test_what_reads_a_point_that_failed_is_not_run(several, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--set", "dense.output.fail_if=parameters_after>0"]
    assert run(["run", str(several), "--out", str(out), "-q", *more]) == 2
    capsys.readouterr()
    more = ["--set", "smaller.output.fail_if=seconds.load>=0"]
    assert run(["run", str(several), "--out", str(out), "-q", *more]) == 3
    told = capsys.readouterr()
    assert "6 of 6 points failed a check, or read one that did: rank=2, " in told.err
    assert "because rank=2 has failed" in told.out
    assert os.listdir(out / "rank=2") == ["smaller"]
