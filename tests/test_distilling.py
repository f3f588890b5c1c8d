"""Distillation and `compress --recover`: what a model learns from a teacher, or why not."""

import json
from pathlib import Path

import pytest
import torch
import trainings
from conftest import WORDS, pico, word_tokenizer
from safetensors.torch import load_file, save_file
from trainings import FAST, arguments, weights
from transformers import (
    AutoModelForSequenceClassification,
)

from tlmtool.cli import run
from tlmtool.models.checkpoint import load

model, data = trainings.model, trainings.data  # its fixtures


@pytest.fixture
def texts(tmp_path) -> Path:
    draw, file = torch.Generator().manual_seed(0), tmp_path / "texts.txt"
    orders = (torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(100))
    file.write_text("\n".join(" ".join(WORDS[i] for i in order) for order in orders) + "\n")
    return file


def test_the_factors_alone_learn_from_a_teacher(model, tmp_path, capsys):
    texts, small = tmp_path / "texts.txt", tmp_path / "small"
    texts.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    assert run(["compress", str(model), "--rank", "2", "--out", str(small), "-q"]) == 0
    out = tmp_path / "out"
    words = ["finetune", str(small), "--teacher", str(model), "--data", str(texts)]
    assert run([*words, "--out", str(out), "--steps", "30", "--batch", "4", "-q"]) == 0
    scores = json.loads((out / "report.json").read_text())["scores"]
    assert scores["after"]["score"] < scores["before"]["score"]
    before, after = weights(small), weights(out)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".weight." in name for name in moved)


@pytest.mark.parametrize("trained", ["factors", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recovery_brings_a_compressed_model_nearer(model, texts, tmp_path, dtype, trained):
    out = tmp_path / "out"
    words = ["compress", str(model), "--rank", "2", "--recover", "30", "--recover-batch", "4"]
    words += ["--recover-train", trained, "--dtype", dtype]
    words += ["--recover-lr", "5e-3" if trained == "factors" else "1e-3"]  # farther than rounding
    assert run([*words, "--data", str(texts), "--out", str(out), "-q"]) == 0
    report = json.loads((out / "report.json").read_text())
    found = report["recovery"]
    assert report["calibration"]["source"] == str(texts)
    assert found["recovered"] < found["compressed"] and found["dense"] == 0
    assert found["trained"] == trained
    assert load(out).dtype == getattr(torch, dtype)
    name = "embeddings.LayerNorm.weight"
    before, after = (load_file(f / "model.safetensors")[name] for f in (model, out))
    moved = not torch.equal(before.to(after.dtype), after)
    assert moved == (trained == "all") or dtype == "bfloat16"  # which may round a step away


def test_a_teacher_that_does_not_fit_is_refused(model, texts, tmp_path, capsys):
    wide, other = tmp_path / "wide", tmp_path / "other"
    pico("bert", hidden_size=48).save_pretrained(wide)
    pico("bert").save_pretrained(other)
    word_tokenizer().save_pretrained(wide)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(other)
    common = ["finetune", str(model), "--data", str(texts), "--out", str(tmp_path / "out"), "-q"]
    for teacher, says in ((wide, "has width 48"), (other, "reads other tokens")):
        assert run([*common, "--teacher", str(teacher), "--train", "all"]) == 2
        assert says in capsys.readouterr().err
    assert run([*common, "--teacher", str(model), "--task", "mlm"]) == 2
    assert "--teacher goes with" in capsys.readouterr().err


def test_a_new_head_learns_from_a_teacher_of_figures_too(model, tmp_path):
    """A regression teacher: its output, not a distribution, is what is learned."""
    rows = [f"{' '.join(WORDS[i:] + WORDS[:i])}\t{i}.0" for i in range(len(WORDS))] * 3
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    data, teacher, out = tmp_path / "pairs.tsv", tmp_path / "teacher", tmp_path / "out"
    words = ["--task", "regression", "--data", str(data), "--steps", "3", *FAST]
    assert run(["finetune", str(model), *words, "--out", str(teacher)]) == 0
    taught = ["finetune", str(model), "--teacher", str(teacher), "--train", "all", *words]
    assert run([*taught, "--out", str(out)]) == 0
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_labels == 1


def test_of_a_teacher_without_a_head_hidden_states_alone_are_learned(model, data, tmp_path, capsys):
    """Its missing head is neither made up nor learned from; one for something else is refused."""
    out, words = tmp_path / "out", ("--steps", 2, "--train", "all")
    assert run(arguments(model, data, out, *words, "--teacher", model)) == 0
    taught = json.loads((out / "report.json").read_text())["training"]["taught"]
    assert (
        taught == "hidden states" and "hidden states are learned" in (out / "README.md").read_text()
    )
    again = tmp_path / "again"
    assert run(arguments(model, data, again, *words, "--teacher", out)) == 0
    report = json.loads((again / "report.json").read_text())
    assert report["training"]["taught"] == "hidden states and outputs"
    capsys.readouterr()
    masked = tmp_path / "masked"
    pico("bert", "lm").save_pretrained(masked)
    word_tokenizer().save_pretrained(masked)
    assert run(arguments(model, data, tmp_path / "new", *words, "--teacher", masked)) == 2
    assert "is not for task classification" in capsys.readouterr().err
    weights = load_file(out / "model.safetensors")
    cut = {name: w for name, w in weights.items() if "classifier" not in name}
    save_file(cut, out / "model.safetensors", {"format": "pt"})
    for source, more in ((model, ["--teacher", out]), (out, [])):  # as a teacher, and by its task
        assert run(arguments(source, data, tmp_path / "new", *words, *more)) == 4
        assert "lacks 2 weights, such as classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "head", "taught"),
    [
        ("t5", "lm", "hidden states and outputs"),
        ("t5", "base", "hidden states"),
        ("bart", "base", "hidden states"),
        ("gpt2", "lm", "outputs"),
    ],
)
def test_what_was_learned_is_said_of_every_family(family, head, taught, data, tmp_path, capsys):
    """T5's models are their own base models, head or not; its base makes no decoder inputs."""
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    pico(family, head).save_pretrained(teacher)
    word_tokenizer().save_pretrained(teacher)
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(WORDS[i:]) for i in range(9)) * 9)
    words = ["finetune", str(teacher), "--teacher", str(teacher), "--out", str(out)]
    words += ["--data", str(tmp_path / "texts.txt"), "--train", "all", "--steps", "1", *FAST]
    assert run(words) == 0
    assert json.loads((out / "report.json").read_text())["training"]["taught"] == taught
    words = ["--train", "all", "--steps", 1, "--teacher", teacher, "--overwrite"]
    assert run(arguments(teacher, data, out, *words)) == (2 if head == "lm" else 0)
    if head == "lm":
        said = capsys.readouterr().err
        assert "is not for task classification" in said and said.count("\n") == 1
    else:
        assert json.loads((out / "report.json").read_text())["training"]["taught"] == taught


def test_the_final_score_of_keep_best_is_the_one_it_is_called(model, tmp_path, capsys):
    """Sentences set aside choose the model; the pairs of the development set score it."""
    draw, small, out = torch.Generator().manual_seed(1), tmp_path / "small", tmp_path / "out"
    (pairs := tmp_path / "pairs").mkdir()
    for name, count in (("train", 60), ("dev", 20)):
        rows = []
        for row in range(count):
            texts = (torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(2))
            first, second = (" ".join(WORDS[i] for i in order) for order in texts)
            rows.append(f"{first}\t{second}\t{row % 5}")
        (pairs / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    assert run(["compress", str(model), "--rank", "2", "--out", str(small), "-q"]) == 0
    words = ["finetune", str(small), "--teacher", str(model), "--data", str(pairs)]
    words += ["--steps", "6", "--keep-best", "--evaluate-every", "3", "--out", str(out), *FAST]
    assert run(words) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["training"]["metric"] == "feature error"
    scores = report["scores"]
    assert (scores["name"], scores["better"]) == ("spearman", "higher")
    capsys.readouterr()
    dev = ["--data", str(pairs / "dev.tsv"), "--max-length", "16", "--device", "cpu"]
    assert run(["evaluate", str(out), "--task", "similarity", *dev, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["models"][0]["score"]
    assert scores["after"]["score"] == pytest.approx(again, abs=1e-6)
