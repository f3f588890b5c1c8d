"""What a training chooses: matrices by their importance, rates, schedules, the best model."""

import json
import sys

import pytest
import trainings
from trainings import (
    DYNAMIC,
    arguments,
)
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

from tlmtool.cli import run
from tlmtool.models.checkpoint import load
from tlmtool.models.surgery import plan_of
from tlmtool.training.loop import Trainer
from tlmtool.training.optimizing import Optimizer

model, data = trainings.model, trainings.data  # its fixtures


@pytest.mark.parametrize("kind", ["taylor", "fisher", "zero-out"])
def test_static_chooses_by_what_it_measured(model, data, tmp_path, kind):
    out, again = tmp_path / "out", tmp_path / "again"
    more = ["--strategy", "static", "--N", "1", "--importance", kind, "--growth", "2"]
    assert run(arguments(model, data, out, "--steps", 8, *more)) == 0
    assert run(arguments(out, data, again, "--steps", 4, *more)) == 0  # it has the head already
    for folder, step in ((out, 5), (again, 1)):
        (entry,) = json.loads((folder / "report.json").read_text())["selections"]
        assert entry["step"] == step and min(entry["scores"].values()) > 0
        assert len(entry["chosen"]) == 6


def test_every_strategy_runs_one_schedule_over_all_its_steps(model, data, tmp_path, monkeypatch):
    seen, own = [], Trainer.learn

    def learn(self, *batch):
        seen.append((id(self.optimizer), self.optimizer.lr))
        own(self, *batch)

    monkeypatch.setattr(Trainer, "learn", learn)
    rates = {}
    for name in ("none", "static", "dynamic"):
        more = ["--steps", 10, "--warmup", 2, *DYNAMIC, "--strategy", name]
        assert run(arguments(model, data, tmp_path / name, *more)) == 0
        assert len({optimizer for optimizer, _ in seen}) == 1
        rates[name] = [rate for _, rate in seen]
        seen.clear()
    assert rates["static"] == pytest.approx(rates["none"], rel=1e-12)
    assert rates["dynamic"] == pytest.approx(rates["none"], rel=1e-12)
    assert rates["none"][-1] < rates["none"][4] < rates["none"][2]


def test_static_leaves_what_was_expanded_before(model, data, tmp_path):
    large, out = tmp_path / "large", tmp_path / "out"
    words = ["overparam", str(model), "--growth", "2", "--sites", "attention", "-q"]
    assert run([*words, "--out", str(large)]) == 0
    more = ["--strategy", "static", "--sites", "ffn", "--N", "1", "--growth", "2", "--no-merge"]
    assert run(arguments(large, data, out, "--steps", 6, *more)) == 0
    assert len(plan_of(load(out))) == 8 + 2


def test_the_best_model_is_kept_whenever_the_run_ends(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 9, "--keep-best", "--evaluate-every", 4, *DYNAMIC)
    assert run(arguments(model, data, out, *more)) == 0
    report = json.loads((out / "report.json").read_text())
    steps = [each["step"] for each in report["training"]["history"]]
    assert steps == [4, 8, 9] and report["training"]["chosen_step"] in steps
    best = max(report["training"]["history"], key=lambda each: each["score"])
    assert report["training"]["chosen_step"] == best["step"]
    assert "set aside" in report["training"]["watched"] and report["training"]["examples"] == 144
    before = [s for s in report["selections"] if s["step"] <= best["step"]]
    assert len(report["expansions"]) == 6 * len(before)


def test_patience_ends_a_run(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 60, "--patience", 2, "--evaluate-every", 1, "--lr", "1e-9")
    assert run(arguments(model, data, out, *more)) == 0
    assert json.loads((out / "report.json").read_text())["training"]["steps"] == 3


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_every_schedule_warms_up(model, name):
    found = AutoModel.from_pretrained(model)
    optimizer = Optimizer(found, {}, 1.0, 0.0, name, 4, 12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.lr)
        optimizer.step()
    assert rates[:5] == [0, 0.25, 0.5, 0.75, 1] and (rates[-1] == 1) == (name == "constant")


def test_the_rate_of_the_cores_is_matched_unless_told_otherwise(model, data, tmp_path):
    ratios = {}
    for name, more in (("matched", []), ("plain", ["--no-lr-match"])):
        out = tmp_path / name
        assert run(arguments(model, data, out, "--steps", 5, *DYNAMIC, *more)) == 0
        ratios[name] = [
            max(each["first_update"].values()) / each["step_ratio"] ** (name == "plain")
            for each in json.loads((out / "report.json").read_text())["expansions"]
        ]
    assert ratios["plain"] == pytest.approx(ratios["matched"], rel=0.05)


def test_the_cap_of_a_strategy_and_what_did_not_fit_are_said(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 6, "--strategy", "dynamic", "--N", 12, "--n", 1, "--every", 4)
    assert run(arguments(model, data, out, *more)) == 0
    said = " ".join(json.loads((out / "report.json").read_text())["warnings"])
    assert "capped at 2, the layers" in said and "select 1 of 2 matrices of query" in said


def test_what_is_over_parameterized_is_merged_and_loads_without_us(model, data, tmp_path):
    out = tmp_path / "out"
    assert run(arguments(model, data, out, "--steps", 16, *DYNAMIC)) == 0
    report = json.loads((out / "report.json").read_text())
    assert len(report["expansions"]) == 12 and len(report["selections"]) == 2
    chosen = [site for each in report["selections"] for site in each["chosen"]]
    assert sorted(chosen) == sorted({each["site"] for each in report["expansions"]})
    for each in report["expansions"]:
        assert min(each["first_update"].values()) > 0 and each["growth"] > 1.5
    assert report["parity"]["relative"] <= 1e-5
    assert report["parameters"]["before"] == report["parameters"]["after"]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "tlmtool"]:
            patch.setitem(sys.modules, name, None)  # whoever imports it fails
        found = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(found) is BertForSequenceClassification and type(found.config) is BertConfig
    assert not out.with_name("out.training").exists()
