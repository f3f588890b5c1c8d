"""`tlm run`: stages one after another, references between them, resuming, bad input."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import WORDS, pico, word_tokenizer
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.commands.pipeline import stages_of
from tlmtool.models.checkpoint import load

SMALL = {"samples": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pico") / "model"
    pico("bert", "lm").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def file(model, tmp_path) -> Path:
    lines = [f"{' '.join(WORDS[i:] + WORDS[:i])}" for i in range(len(WORDS))] * 4
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    data = str(tmp_path / "texts.txt")
    stages = [
        {
            "name": "smaller",
            "verb": "compress",
            "model": str(model),
            "compression": {"rank": 4},
            "calibration": {"text": data},
        },
        {
            "name": "tune",
            "verb": "finetune",
            "training": {"task": "mlm", "data": data, "steps": 2, "batch": 4},
        },
        {
            "name": "score",
            "verb": "evaluate",
            "evaluation": {"task": "mlm", "data": data, "baseline": "@smaller"},
        },
    ]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path / "p.yaml"


def test_stages_follow_each_other_and_are_not_done_twice(file, model, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", str(file), "--out", str(out), "-q"]
    assert run([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in report["stages"]] == ["smaller", "tune", "score"]
    assert report["stages"][1]["model"]["id"] == str(out / "smaller")
    assert "baseline" in report["stages"][2]
    assert load(out / "tune").num_parameters() == load(out / "smaller").num_parameters()
    made = (out / "smaller" / "model.safetensors").stat().st_mtime_ns
    (out / "score" / "report.json").unlink()
    (out / "score").rmdir()
    assert run(words) == 2 and "--resume" in capsys.readouterr().err
    assert run([*words, "--resume"]) == 0
    shown = capsys.readouterr().out
    assert "stage score" in shown and (out / "score" / "report.json").exists()
    assert (out / "smaller" / "model.safetensors").stat().st_mtime_ns == made
    assert run([*words, "--resume", "--set", "tune.training.steps=3"]) == 2
    assert "another recipe" in capsys.readouterr().err
    assert run([*words, "--overwrite", "--set", "tune.training.steps=3"]) == 0
    assert (out / "smaller" / "model.safetensors").stat().st_mtime_ns != made


def test_a_run_killed_in_mid_training_goes_on_to_the_same_weights(file, tmp_path):
    more = ["-q", "--set", "tune.training.steps=80", "--set", "tune.training.save_every=2"]
    words, alone = ["run", str(file), *more, "--out"], os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run([*words, str(whole)]) == 0
    state = killed / "tune.training" / "state.pt"
    command = [sys.executable, "-m", "tlmtool", *words, str(killed)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=alone) as process:
        while not state.exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert not (killed / "tune").exists() and not (killed / "score").exists(), "it ended first"
    assert run([*words, str(killed), "--resume"]) == 0
    assert not state.exists() and (killed / "score" / "report.json").exists()
    first, second = (load_file(x / "tune" / "model.safetensors") for x in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_check_that_fails_ends_the_run(file, tmp_path, capsys):
    out = tmp_path / "out"
    checked = ["--set", "smaller.output.fail_if=loss>0"]
    assert run(["run", str(file), "--out", str(out), "-q", *checked]) == 3
    assert (out / "smaller").exists() and not (out / "tune").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.clear(), "is no pipeline"),
        (lambda s: s[1].pop("name"), "stage 2"),
        (lambda s: s[1].update(name="smaller"), "stage 2"),
        (lambda s: s[1].update(verb="train"), "needs a verb"),
        (lambda s: s[0].pop("model"), "needs a MODEL"),
        (lambda s: s[2]["evaluation"].update(baseline="@other"), "@other names no earlier stage"),
        (lambda s: s[1].update(output={"out": "x"}), "output.out"),
        (lambda s: s[1]["training"].update(step=2), "training.steps"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(change, says, file, tmp_path, capsys):
    tree = yaml.safe_load(file.read_text())
    change(tree["stages"])
    file.write_text(yaml.safe_dump(tree))
    assert run(["run", str(file), "--out", str(tmp_path / "out"), "-q"]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error and not (tmp_path / "out").exists()


def test_a_set_names_its_stage(file, tmp_path, capsys):
    stages = stages_of(file, tmp_path / "out", ["tune.training.lr=0.5"])
    assert stages[1].recipe.training.lr == 0.5
    assert run(["run", str(file), "--set", "training.lr=0.5"]) == 2
    assert "does not begin with a stage" in capsys.readouterr().err


def test_overwriting_loses_nothing_before_it_has_another(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["run", str(file), "--out", str(out), "-q"]) == 0
    (out / "notes.txt").write_text("mine")
    before = (out / "tune" / "model.safetensors").read_bytes()
    wrong = ["--overwrite", "--set", f"tune.training.data={tmp_path / 'nowhere.txt'}"]
    assert run(["run", str(file), "--out", str(out), "-q", *wrong]) == 4
    assert (out / "tune" / "model.safetensors").read_bytes() == before
    assert (out / "notes.txt").exists() and (out / "score" / "report.json").exists()
    assert run(["run", str(file), "--out", str(out), "-q", "--resume", "--overwrite"]) == 2
    (out / "stages.json").write_text('{"smal')
    assert run(["run", str(file), "--out", str(out), "-q", "--overwrite"]) == 4
    assert "is no list of a pipeline's stages" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report.json", "page.html", "stages.json", "score/report.json"])
def test_files_of_a_user_with_our_names_are_left_alone(name, file, tmp_path, capsys):
    (mine := tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / "stages.json").write_text(json.dumps({"format": 3, "stages": {}}))
    mine.write_text('{"format": 1, "schema_version": 1}')
    words = ["run", str(file), "--out", str(tmp_path / "out"), "-q", "--overwrite"]
    assert run(words) == (4 if mine.name == "stages.json" else 2)
    assert mine.name in capsys.readouterr().err
    assert mine.read_text() == '{"format": 1, "schema_version": 1}'


def test_another_spelling_of_a_folder_and_another_check_go_on(file, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["run", str(file), "--out", "out", "-q"]) == 0
    check = ["--set", "score.output.fail_if=score<0"]
    assert run(["run", str(file), "--out", str(tmp_path / "out"), "-q", "--resume", *check]) == 0
    words = ["run", str(file), "--out", "out", "-q", "--resume"]
    assert run([*words, "--set", f"smaller.model={model.parent}/./model/"]) == 0
    words = ["compress", f"{model}/", "--rank", "4", "--calibration", "none", "--out", "one", "-q"]
    assert run(words) == 0
    assert run(["compress", str(model), *words[2:], "--resume"]) == 0


def test_the_stages_of_a_file_are_bounded_and_each_is_looked_at_once(tmp_path, capsys, monkeypatch):
    """Of 20,000 stages one sentence; of some hundred, the work of each does not grow with them."""
    one = {"verb": "merge", "model": "m"}
    file = tmp_path / "p.yaml"
    file.write_text(json.dumps({"stages": [{"name": f"s{i}", **one} for i in range(1001)]}))
    assert run(["run", str(file), "--out", str(tmp_path / "out"), "-q"]) == 2
    error = capsys.readouterr().err
    assert "1,001 stages" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()

    class Compared(str):
        """A name that counts how often it is compared."""

        times = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Compared.times += 1
            return str.__eq__(self, other)

    counts = []
    for many in (100, 200):
        stages = [{"name": Compared(f"s{i}"), **one} for i in range(many)]
        given = {"stages": stages}
        monkeypatch.setattr("tlmtool.recipe.stages.read", lambda file, given=given: given)
        Compared.times = 0
        assert len(stages_of(file, tmp_path / "out")) == many
        counts.append(Compared.times)
    assert counts[1] <= 2 * counts[0] + 20


def test_an_empty_list_of_stages_is_not_replaced(file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stages.json").write_text("{}")
    assert run(["run", str(file), "--out", str(tmp_path / "out"), "-q", "--overwrite"]) == 4
    assert (tmp_path / "out" / "stages.json").read_text() == "{}"


def test_a_run_that_fails_leaves_no_report_of_an_earlier_one(file, tmp_path):
    words = ["run", str(file), "--out", str(tmp_path / "out"), "-q"]
    assert run(words) == 0 and (tmp_path / "out" / "report.json").exists()
    (tmp_path / "empty").mkdir()
    failing = ["--set", f"smaller.model={tmp_path / 'empty'}", "--overwrite"]
    assert run([*words, *failing]) == 4
    left = {each.name for each in (tmp_path / "out").iterdir()}
    assert "smaller" in left and not left & {"report.json", "page.html"}


@pytest.mark.parametrize("what", ["nowhere.txt (training.data)", "nowhere"])
def test_what_is_not_there_is_told_before_any_work(what, file, tmp_path, capsys):
    stages = yaml.safe_load(file.read_text())["stages"]
    if what == "nowhere":
        late = {"verb": "evaluate", "evaluation": {"task": "mlm", "baseline": str(tmp_path / what)}}
    else:
        tune = {"task": "mlm", "data": str(tmp_path / "nowhere.txt"), "steps": 2}
        late = {"verb": "finetune", "training": tune}
    stages.append({"name": "late"} | late)
    (tmp_path / "g.yaml").write_text(json.dumps({"stages": stages}))
    words = ["run", str(tmp_path / "g.yaml"), "--out", str(tmp_path / "out"), "-q"]
    for more in ([], ["--dry-run"]):
        assert run([*words, *more]) == 4
        assert f"{what} does not exist" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert run([*words, "--check"]) == 0
