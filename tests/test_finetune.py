"""The verb finetune through the command line: what it trains, saves, says and refuses."""

import json

import pytest
import trainings
from conftest import WORDS, pico, word_tokenizer
from trainings import (
    DYNAMIC,
    FAST,
    arguments,
)
from transformers import (
    AutoModelForSequenceClassification,
)

import tlmtool
from tlmtool.cli import run
from tlmtool.recipe.rules import TRAINED
from tlmtool.tasks.table import GLUE

model, data = trainings.model, trainings.data  # its fixtures


def test_mixed_precision_saves_and_scores_the_float32_model(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    more = ("--steps", 6, "--precision", "bf16", "--checkpointing", *DYNAMIC)
    assert run(arguments(model, data, out, *more)) == 0
    report = json.loads((out / "report.json").read_text())
    assert 0 < report["parity"]["relative"] <= 1e-5  # under autocast it would be 0, or much more
    capsys.readouterr()
    words = ["evaluate", str(out), "--task", "classification", "--data", str(data), "--json", "-q"]
    assert run(words) == 0
    score = json.loads(capsys.readouterr().out)["models"][0]["score"]
    assert score == report["scores"]["after"]["score"]


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--task", "colla"], 2, "did you mean cola"),
        (["--label-column", "missing"], 4, "no column missing"),
        (["--N", "1", "--n", "2", "--strategy", "dynamic"], 2, "below"),
        (["--N", "0"], 2, "at least 1"),
        (["--growth", "0.5"], 2, "above 1"),
        (["--task", "clm"], 4, "is a directory"),
        (["--batch", "2", "--accumulate", "4"], 1, "too few for a batch"),
        (["--data", "no/such/folder"], 4, "does not exist"),
    ],
)
def test_bad_input_is_one_sentence(model, data, tmp_path, capsys, more, code, says):
    words = arguments(model, data, tmp_path / "out", "--steps", 2, *more)
    assert run(words) == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_the_tasks_of_the_schema_are_those_of_the_data():
    own = {"classification", "regression", "grammar", "mlm", "clm", "translation"}
    assert set(TRAINED) == {*GLUE, *own}


def test_what_was_trained_is_scored_by_evaluate(model, data, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    assert run(arguments(model, data, out, "--epochs", 3)) == 0
    assert run(arguments(model, data, other, "--steps", 1)) == 0
    words = ["evaluate", str(out), "--task", "classification", "--data"]
    capsys.readouterr()
    assert run([*words, str(data), "--baseline", str(other), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    trained = json.loads((out / "report.json").read_text())["scores"]["after"]
    assert found["models"][0]["score"] == trained["accuracy"] and found["metric"] == "accuracy"
    low, high = found["baseline"]["interval"]
    assert low <= found["baseline"]["difference"] <= high and found["models"][0]["n"] == 40
    assert run([*words, str(data / "dev.tsv"), "-q"]) == 0
    words[words.index("classification")] = "mnli"
    assert run([*words, str(data)]) == 4 and "no column" in capsys.readouterr().err
    words = ["evaluate", str(model), "--task", "grammar"]
    assert run(words) == 2 and "has no head for it" in capsys.readouterr().err
    assert run(["evaluate", str(out), "--task", "regression", "--data", str(data)]) == 2
    assert "has 2 outputs, the task needs 1" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "task"), [("bert", "mlm"), ("gpt2", "clm"), ("llama", "clm")])
def test_language_models_learn_and_keep_their_head(family, task, tmp_path):
    source, out, texts = (tmp_path / name for name in ("source", "out", "texts.txt"))
    pico(family).save_pretrained(source)
    word_tokenizer().save_pretrained(source)
    texts.write_text("\n".join(" ".join(WORDS[i % 5 :]) for i in range(64)) + "\n")
    words = ["finetune", str(source), "--task", task, "--data", str(texts), *FAST]
    assert run([*words, "--steps", "40", *DYNAMIC, "--out", str(out), "--lr", "1e-2"]) == 0
    report = json.loads((out / "report.json").read_text())
    scores = [row["score"] for row in report["training"]["history"] if "score" in row]
    assert scores[-1] < scores[0] and len(report["expansions"]) > 0
    assert report["model"]["class"].endswith(("ForMaskedLM", "ForCausalLM", "LMHeadModel"))
    wrong = "clm" if task == "mlm" else "mlm"
    assert run(["finetune", str(source), "--task", wrong, "--data", str(texts), "-q"]) == 2


def test_a_dry_run_tells_the_cost_and_writes_nothing(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = arguments(model, data, out, "--epochs", 2, *DYNAMIC, "--dry-run", "--json")
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] and "40 steps" in found["step"]["note"] and not out.exists()
    step = found["step"]
    assert step["step_flops"]["after"] > step["step_flops"]["before"] > 0
    large = sum(each["growth"] > 1.5 for each in found["expanded"])
    assert large == len(found["expanded"]) == 12


def test_a_tracker_logs_beside_the_checkpoint(model, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    words = arguments(model, data, out, "--steps", 4, "--tracker", "tensorboard")
    assert run(words) == 0
    logs = list((tmp_path / "out.tensorboard").glob("**/events.out.tfevents*"))
    assert logs and sum(log.stat().st_size for log in logs) > 200
    monkeypatch.setattr("tlmtool.training.finetune.find_spec", lambda name: None)
    assert run([*words, "--overwrite"]) == 5 and "pip install" in capsys.readouterr().err


def test_a_command_from_python(model, data, tmp_path):
    made = tlmtool.run("finetune", str(model), task="classification", data=data, steps=2,
                       batch=8, out=tmp_path / "out", sets=["training.max_length=16"])  # fmt: skip
    assert made.data["training"]["steps"] == 2 and (tmp_path / "out" / "config.json").exists()
    with pytest.raises(tlmtool.Failure, match="did you mean cola"):
        tlmtool.run("finetune", str(model), task="colla")


def test_a_classifier_is_what_is_saved(model, data, tmp_path):
    out = tmp_path / "out"
    assert run(arguments(model, data, out, "--epochs", 1, "--keep-best", "--accumulate", 2)) == 0
    made = AutoModelForSequenceClassification.from_pretrained(out)
    assert made.config.id2label == {0: "0", 1: "1"}
