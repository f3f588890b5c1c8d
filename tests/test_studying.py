"""Studies (`tlm finetune --seeds`): what they refuse, keep and report, killed or broken."""

import json
from pathlib import Path

import pytest
import torch
import trainings
import yaml
from conftest import of_two
from trainings import (
    arguments,
)

from tlmtool.cli import run
from tlmtool.models import surgery
from tlmtool.recipe.sources import FORMER
from tlmtool.report.kept import read_report
from tlmtool.report.parts.study import Study
from tlmtool.training import finetune, study
from tlmtool.training.loop import Trainer

model, data = trainings.model, trainings.data  # its fixtures
SMALL = ["--steps", 4, "--every", 2, "--N", 1, "--n", 1, "--growth", 2]


@pytest.fixture(scope="module")
def made(model, data, tmp_path_factory) -> Path:
    """A study of two arms from the third seed on, whose --method says nothing to them."""
    out = tmp_path_factory.mktemp("studies") / "study"
    more = ["--N", 12, "--seeds", 2, "--seed", 3, "--arms", "svd,mpo-dynamic", "--method", "svd"]
    assert run(arguments(model, data, out, *SMALL, *more)) == 0
    return out


def words_of(model, data, out, *more) -> list[str]:
    return arguments(model, data, out, *SMALL, "--seeds", 1, "--arms", "dense", *more)


def test_each_arm_has_its_own_method_and_its_report(made):
    report = json.loads((made / "report.json").read_text())
    kept = [json.loads(f.read_text()) for f in sorted(made.glob("*-seed*.json"))]
    assert sorted((each["arm"], each["seed"]) for each in kept) == [
        (arm, seed) for arm in ("mpo-dynamic", "svd") for seed in (3, 4)
    ]
    for each in kept:
        method = "svd" if each["arm"] == "svd" else "mpo"
        assert each["expansions"] and each in report["study"]["results"]
        for one in each["expansions"]:
            assert one["decomposition"]["name"] == method and min(one["first_update"].values()) > 0
            assert method == "svd" or abs(one["growth"] - 2) <= 0.16
        chosen = [site for entry in each["selections"] for site in entry["chosen"]]
        assert sorted(chosen) == sorted(each["chosen"])
    said = " ".join(report["warnings"])
    assert "mpo-dynamic: --N 12 is capped at 2" in said and "svd: --N 12 is capped at 2" in said


@pytest.mark.parametrize("broken", ["", '{"model": "pi', "[" * 99999, "\udcff"])
def test_a_broken_identity_is_one_sentence(model, data, tmp_path, capsys, broken):
    out = tmp_path / "study"
    out.mkdir()
    (out / "study.json").write_bytes(broken.encode(errors="surrogateescape"))
    assert run(words_of(model, data, out, "--resume")) == 4
    said = capsys.readouterr().err
    assert "study.json cannot be read" in said and "--overwrite" in said and said.count("\n") == 1
    assert run(words_of(model, data, out, "--overwrite")) == 0
    (out / "dense-seed0.json").write_text("{}")
    assert run(words_of(model, data, out, "--resume")) == 4
    assert "dense-seed0.json is not a result of a study" in capsys.readouterr().err


def test_an_identity_with_former_names_of_settings_is_known(model, data, tmp_path, monkeypatch):
    """As an earlier tlm wrote it."""
    monkeypatch.setattr(Trainer, "learn", trainings.interrupted)
    out = tmp_path / "study"
    assert run(words_of(model, data, out)) == 130
    kept = json.loads((out / "study.json").read_text())
    for former, today in FORMER.items():
        if today in kept:  # the others are settings of other verbs
            kept[former] = kept.pop(today)
    (out / "study.json").write_text(json.dumps(kept))
    assert run(words_of(model, data, out, "--resume")) == 130  # it trains


def test_a_kill_in_mid_write_leaves_the_identity_whole(model, data, tmp_path):
    """The folder appears with its identity in it, or not at all."""
    out = tmp_path / "study"
    write = Path.write_text

    def stopped(self, text, **more):
        write(self, text[:9], **more)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", stopped)
        assert run(words_of(model, data, out)) == 130
    assert not out.exists()
    assert run(words_of(model, data, out, "--resume")) == 0


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--overwrite", "--data", "no/such/folder"], 4, "does not exist"),
        (["--overwrite", "--growth", 50, "--cores", 5, "--arms", "mpo-static"], 2, "growth 50"),
        (["--overwrite", "--sites", "embedding", "--arms", "svd"], 2, "an embedding cannot"),
        (["--overwrite", "--task", "stsb"], 4, "no column"),
        (["--overwrite", "--resume"], 2, "give one of the two"),
        (["--overwrite", "--tracker", "tensorboard"], 2, "leave out --tracker"),
        (["--overwrite", "--lr-grid", "1e-3,1e-4"], 2, "--lr and --lr-grid both say the rate"),
        ([], 2, "--overwrite replaces it"),
        (["--resume"], 2, "holds another study"),
    ],
)
def test_what_is_refused_loses_no_results(model, data, made, capsys, monkeypatch, more, code, says):
    monkeypatch.setattr(Trainer, "learn", lambda *args: pytest.fail("a step was taken"))
    before = {file: file.read_bytes() for file in made.rglob("*")}
    assert run(words_of(model, data, made, *more)) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert {file: file.read_bytes() for file in made.rglob("*")} == before
    assert [*made.parent.iterdir()] == [made]


def test_a_folder_of_something_else_is_left_alone(model, data, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    for more in ([], ["--resume"], ["--overwrite"]):
        assert run(words_of(model, data, tmp_path, *more)) == 2
        assert "holds no study (study.json)" in capsys.readouterr().err
    assert run(words_of(model, data, tmp_path / "thesis.txt")) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_study_that_cannot_be_replaced_is_refused_first(model, data, made, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "learn", lambda *args: pytest.fail("a step was taken"))
    monkeypatch.setattr("os.access", lambda *args: False)
    assert run(words_of(model, data, made, "--overwrite")) == 2
    assert "is no folder that can be written to" in capsys.readouterr().err


def test_what_is_of_a_study_needs_seeds(model, data, tmp_path, capsys):
    for more in (["--arms", "dense"], ["--lr-grid", "1e-3,1e-4"]):
        words = arguments(model, data, tmp_path / "out", *more)
        del words[words.index("--lr") : words.index("--lr") + 2]
        assert run(words) == 2
        assert f"{more[0]} is for a comparison: give --seeds N too" in capsys.readouterr().err


def test_a_dry_run_of_a_study_tells_what_all_of_it_costs(model, data, tmp_path, capsys):
    out = tmp_path / "study"
    words = arguments(model, data, out, *SMALL, "--seeds", 3, "--arms", "dense,frozen,mpo-static")
    del words[words.index("--lr") : words.index("--lr") + 2]
    words += ["--lr-grid", "1e-3,1e-4", "--dry-run"]
    assert run([*words, "--json"]) == 0 and not out.exists()
    report = json.loads(capsys.readouterr().out)
    cost, kept = report["cost"], report["recipe"]
    runs = {row["arm"]: row["runs"] for row in cost["rows"]}
    assert runs == {"rates (dense)": 2, "dense": 3, "frozen": 3, "mpo-static": 3, "mpo-dynamic": 3}
    assert cost["runs"] == 14 and cost["steps"] == 4
    assert "selections and evaluations not counted" in cost["note"]
    by_arm = {row["arm"]: row["step_flops"] for row in cost["rows"]}
    assert by_arm["mpo-static"] > by_arm["dense"] == by_arm["frozen"]
    assert cost["flops"] == sum(4 * row["runs"] * row["step_flops"] for row in cost["rows"])
    assert run(words) == 0  # below, what it keeps of its recipe is one
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(kept))
    assert run(["finetune", "--recipe", str(tmp_path / "kept.yaml"), "--dry-run", "-q"]) == 0
    shown = capsys.readouterr().out
    assert "mpo-static" in shown and "in all" in shown and "nothing was written" in shown


def test_a_study_compares_arms_and_goes_on(model, data, tmp_path):
    out = tmp_path / "study"
    words = arguments(model, data, out, "--steps", 6, "--every", 2, "--N", 1, "--n", 1)
    arms = "dense,dense-matched,frozen,svd,mpo-static,mpo-dynamic"
    del words[words.index("--lr") : words.index("--lr") + 2]
    words += ["--arms", arms, "--seeds", "2", "--lr-grid", "1e-3,1e-4"]
    assert run(words) == 0
    report = json.loads((out / "report.json").read_text())["study"]
    assert {each["arm"] for each in report["arms"]} == set(arms.split(","))
    assert len(report["pairs"]) == 15 and {r["steps"] for r in report["results"]} == {6}
    part, last = read_report(out / "report.json", "finetune").part(Study), report["arms"][-1]
    assert part.headline() == (f"{part.results[0].metric}, {last['arm']}", last["mean"])
    (out / "svd-seed1.json").unlink()
    assert run(words) == 2 and run([*words, "--resume"]) == 0
    again = json.loads((out / "report.json").read_text())["study"]
    assert again["arms"] == report["arms"]


def test_the_arms_of_a_study_are_what_they_say(model, data, tmp_path, monkeypatch):
    """frozen does not move what was chosen, dense-matched has the measured rate; accelerate keeps
    nothing of the runs that are over."""
    out, seen = tmp_path / "study", []
    prepare, accelerators, made_of = study.prepare, [], finetune.accelerator_of

    def kept(*args):
        accelerators.append(made_of(*args))
        return accelerators[-1]

    monkeypatch.setattr(finetune, "accelerator_of", kept)

    def noting(*args):
        job = prepare(*args)
        sites = {s: job.model.base_model.get_submodule(s) for s in surgery.sites(job.model)}
        seen.append((job, {s: m.weight.detach().clone() for s, m in sites.items()}))
        return job

    monkeypatch.setattr(study, "prepare", noting)
    words = arguments(model, data, out, "--steps", 6, "--every", 2, "--N", 1, "--n", 1)
    assert run([*words, "--arms", "dense,dense-matched,frozen,mpo-dynamic", "--seeds", "1"]) == 0
    found = {
        each["arm"]: each
        for each in json.loads((out / "report.json").read_text())["study"]["results"]
    }
    chosen, ratio = found["mpo-dynamic"]["chosen"], found["mpo-dynamic"]["step_ratio"]
    assert found["dense-matched"]["lr"] == pytest.approx(found["dense"]["lr"] * ratio)
    moved = []
    for job, before in seen:
        base = job.model.base_model
        moved.append(
            {s for s, w in before.items() if not torch.equal(base.get_submodule(s).weight, w)}
        )
    assert any(not each & set(chosen) and each for each in moved)  # one arm of them: frozen
    assert sum(bool(each & set(chosen)) for each in moved) == 3
    assert len(accelerators) == 1 and not accelerators[0]._models


def test_a_study_that_cannot_be_is_refused(model, data, tmp_path, capsys, monkeypatch):
    words = arguments(model, data, tmp_path / "out", "--steps", 2, "--seeds", 1)
    assert run([*words, "--keep-best"]) == 2 and "equal steps" in capsys.readouterr().err
    assert run([*words, "--arms", "dense-matched,mpo-dynamic"]) == 2
    assert "expanded nothing in 2 steps: lower --every" in capsys.readouterr().err
    of_two(monkeypatch)
    assert run(words) == 2 and "in one process" in capsys.readouterr().err
