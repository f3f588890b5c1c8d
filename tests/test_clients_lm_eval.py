"""lm-evaluation-harness scores our checkpoints, by its own command and by `tlm evaluate`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import pico, word_tokenizer
from factored import compressed

from tlmtool.cli import run

ROOT = Path(__file__).parent.parent
CHOICES = ["cat", "dogs", "mat", "far"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Two models, what one of them is when merged, and a task of 70 examples."""
    pytest.importorskip("lm_eval")
    room = tmp_path_factory.mktemp("harness")
    for name in ("svd", "btd"):
        compressed("llama", "lm", name).save_pretrained(room / name)
        word_tokenizer(special=False).save_pretrained(room / name)
    assert run(["merge", str(room / "btd"), "--out", str(room / "plain"), "-q"]) == 0
    texts = [f"the {CHOICES[i % 4]} sat on a {CHOICES[i % 3]} and" for i in range(70)]
    rows = [json.dumps({"text": text, "label": i * i % 4}) for i, text in enumerate(texts)]
    (room / "data.jsonl").write_text("\n".join(rows) + "\n")
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(room / "data.jsonl")}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "{{text}}",
        "doc_to_choice": CHOICES,
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 1},
    }
    (room / "tasks").mkdir()
    (room / "tasks" / "tiny.yaml").write_text(yaml.safe_dump(task))
    return room


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache of data sets that no other test reads."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def evaluated(capsys, room, *more, name="btd", code=0):
    words = ["evaluate", room / name, "--task", "lm-eval:tiny", "--data", room / "tasks", *more]
    capsys.readouterr()
    assert run([*map(str, words), "-q"]) == code
    return capsys.readouterr()


@pytest.mark.parametrize("name", ["svd", "btd"])
def test_a_model_scores_and_its_difference_has_a_paired_interval(name, room, capsys):
    other = {"svd": "btd", "btd": "svd"}[name]
    told = evaluated(capsys, room, "--baseline", room / other, "--json", name=name)
    found = json.loads(told.out)
    (mine,), theirs = found["models"], found["baseline"]
    assert mine["n"] == theirs["n"] == 70 and found["metric"] == "acc" and "acc_norm" in mine
    assert theirs["difference"] == pytest.approx(mine["score"] - theirs["score"])
    low, high = theirs["interval"]
    assert low <= theirs["difference"] <= high and "paired" in theirs["method"]


def test_merged_it_scores_the_same_and_few_examples_have_no_interval(room, capsys):
    more = ("--baseline", room / "plain", "--samples", 9, "--json")
    found = json.loads(evaluated(capsys, room, *more).out)
    assert found["baseline"]["difference"] == 0 and found["models"][0]["n"] == 9
    assert found["baseline"]["interval"] is None and "64 examples" in found["baseline"]["method"]


def test_its_own_command_opens_our_folder_and_finds_the_same(room, capsys, tmp_path):
    mine = json.loads(evaluated(capsys, room, "--json").out)["models"][0]["score"]
    given = f"pretrained={room / 'btd'},trust_remote_code=True"
    words = ["--model", "hf", "--model_args", given, "--tasks", "tiny", "--device", "cpu"]
    words += ["--include_path", str(room / "tasks"), "--output_path", str(tmp_path / "out")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"HF_MODULES_CACHE": str(tmp_path / "m"), "HF_DATASETS_CACHE": str(tmp_path / "d")}
    command = [sys.executable, "-m", "lm_eval", *words]
    ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["tiny"]["acc,none"] == pytest.approx(mine)


def test_figures_are_added_to_the_report_of_a_checkpoint(room, tmp_path, capsys):
    pico("llama", "lm").save_pretrained(tmp_path / "m")
    word_tokenizer(special=False).save_pretrained(tmp_path / "m")
    words = ["compress", tmp_path / "m", "--rank", "2", "--calibration", "none", "-q"]
    assert run([*map(str, words), "--out", str(tmp_path / "small")]) == 0
    words = ["evaluate", tmp_path / "small", "--task", "lm-eval:tiny", "--data", room / "tasks"]
    assert run([*map(str, words), "--out", str(tmp_path / "small"), "-q"]) == 0
    (kept,) = json.loads((tmp_path / "small" / "report.json").read_text())["evaluations"]
    assert kept["task"] == "lm-eval:tiny" and kept["metric"] == "acc"
    assert "lm-eval:tiny of tasks" in (tmp_path / "small" / "README.md").read_text()


def one_sentence(told, says):
    assert told.out == "" and told.err.count("\n") == 1 and says in told.err, told.err


def test_what_is_refused(room, tmp_path, capsys, monkeypatch):
    pico("bert", "lm").save_pretrained(tmp_path / "bert")
    word_tokenizer().save_pretrained(tmp_path / "bert")
    told = evaluated(capsys, room, name=tmp_path / "bert", code=2)
    one_sentence(told, "does not predict the next token")
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    one_sentence(evaluated(capsys, room, code=5), "pip install 'tlmtool[lm-eval]'")
