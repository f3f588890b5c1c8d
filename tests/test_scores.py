"""Printed scores of classes and figures are scikit-learn's and scipy's of predictions made here."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pico, sentences, word_tokenizer
from front_door import report_of, tlm, told
from scipy import stats
from sklearn import metrics
from transformers import AutoModelForSequenceClassification

from tlmtool.data import grammar
from tlmtool.failure import Failure
from tlmtool.measuring.evaluation import evaluate
from tlmtool.tasks.table import TASKS, Task

COUNT, FEW = 80, 20  # of few examples an interval is found in another way
TRUE = {  # of (labels, predictions)
    "matthews": metrics.matthews_corrcoef,
    "accuracy": lambda labels, said: np.mean(labels == said),
    "f1": lambda labels, said: metrics.f1_score(labels, said, pos_label=1),
    "pearson": lambda labels, said: stats.pearsonr(labels, said).statistic,
    "spearman": lambda labels, said: stats.spearmanr(labels, said).statistic,
}
LABELLED = [name for name, t in TASKS.items() if t.labelled and TRUE.keys() >= {*t.metrics}]
TABLES = [name for name in LABELLED if not TASKS[name].made]
OWN = ("red", "green", "blue")  # classes of a table of one's own


def classes(task: Task) -> tuple[str, ...]:
    return () if task.kind == "regression" else task.labels or OWN


def texts(task: Task) -> list[tuple[str, ...]]:
    """The text, or the two texts, of each example."""
    if task.made:
        return [(text,) for text, _ in grammar.sentences()[9::10]]  # every tenth is held out
    lines = sentences(COUNT)
    columns = [lines, lines[7:] + lines[:7]][: max(1, len(task.texts))]
    return list(zip(*columns, strict=True))


@torch.no_grad()
def logits(model, given: list[tuple[str, ...]]) -> np.ndarray:
    """(n, outputs) of each example alone, without padding."""
    tokenizer = word_tokenizer()
    each = (model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in given)
    return torch.stack(list(each)).double().numpy()


def answers(task: Task, model) -> np.ndarray:
    """What a model says of each example: a class, by the names of its head, or a figure."""
    found = logits(model.eval(), texts(task))
    if task.kind == "regression":
        return found[:, 0]
    names = [model.config.id2label[i] for i in found.argmax(1)]
    return np.array([classes(task).index(name) for name in names])


@cache
def head(name: str, seed: int = 0):
    """A model that says each class of some examples; its outputs are not in the task's order."""
    names = classes(TASKS[name])[::-1] or ("figure",)
    more = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    model = pico("bert", "classification", seed, **more)
    with torch.no_grad():
        mean = logits(model, texts(TASKS[name])).mean(0)
        model.classifier.bias -= torch.tensor(mean, dtype=torch.float32)
    return model


@cache
def said(name: str, seed: int = 0) -> np.ndarray:
    return answers(TASKS[name], head(name, seed))


@cache
def labels(name: str) -> np.ndarray:
    """The answers of a model, two in five of them changed; a made task has its own labels."""
    task, draw = TASKS[name], np.random.default_rng(0)
    if task.made:
        return np.array([label for _, label in grammar.sentences()[9::10]])
    right = said(name)
    if task.kind == "regression":
        return np.clip(2.5 + stats.zscore(right) + draw.normal(size=COUNT), 0, 5).round(2)
    return np.where(draw.random(COUNT) < 0.4, draw.integers(0, right.max() + 1, COUNT), right)


def expected(task: Task, given: np.ndarray, some: slice = slice(None)) -> dict:
    """The score, and each metric where there are several."""
    true = labels(task.name)[some]
    found = {name: float(TRUE[name](true, given[some])) for name in task.metrics}
    return {"score": sum(found.values()) / len(found)} | (found if len(found) > 1 else {})


@cache
def furnished(name: str, folder: Path) -> Path:
    """Two checkpoints, and tables of the examples in the columns that the task knows."""
    task = TASKS[name]
    for seed in (0, 1):
        head(name, seed).save_pretrained(folder / f"model{seed}")
        word_tokenizer().save_pretrained(folder / f"model{seed}")
    columns = [known[0] for known in task.texts] or ["text"]
    known = [float(x) if task.kind == "regression" else classes(task)[x] for x in labels(name)]
    rows = [
        json.dumps(dict(zip(columns, pair, strict=True)) | {task.label[0]: label})
        for pair, label in zip(texts(task), known, strict=True)
    ]
    for file, some in (("dev", rows), ("train", rows[::-1]), ("few", rows[:FEW])):
        (folder / f"{file}.jsonl").write_text("\n".join(some) + "\n")
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    made = tmp_path_factory.mktemp("scores")
    for name in LABELLED:
        (made / name).mkdir()
    return lambda name: furnished(name, made / name)


def same(found: dict, wanted: dict) -> None:
    """Padding moves the last bits of a figure, and of its correlation."""
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)


def test_a_task_of_glue_is_scored_as_glue_scores_it():
    official = {"cola": "matthews", "mrpc": "accuracy and f1", "qqp": "accuracy and f1"}
    official |= {"stsb": "pearson and spearman"}
    official |= dict.fromkeys(("sst2", "rte", "qnli", "mnli"), "accuracy")
    assert {name: TASKS[name].metric for name in official} == official


@pytest.mark.parametrize("name", LABELLED)
def test_evaluate(name, room, capsys):
    task, folder = TASKS[name], room(name)
    words = ["evaluate", folder / "model0", "--task", name]
    found = told(capsys, *words, *([] if task.made else ["--data", folder / "dev.jsonl"]))
    wanted = expected(task, said(name))
    assert task.made or 0.05 < abs(wanted["score"]) < 0.95  # a figure that a mistake changes
    same(found["models"][0], wanted)
    assert found["models"][0]["n"] == len(texts(task))
    assert (found["metric"], found["better"]) == (" and ".join(task.metrics), "higher")


def test_a_model_in_training_mode_is_scored_without_dropout_and_stays_in_it(room):
    model, data = copy.deepcopy(head("mnli")).train(), room("mnli") / "dev.jsonl"
    found = evaluate("mnli", model, word_tokenizer(), data, batch=7)
    same(found["models"][0], expected(TASKS["mnli"], said("mnli")))
    assert model.training and model.classifier.training


@pytest.mark.parametrize("name", ["mnli", "stsb"])
def test_answers_that_are_no_numbers_are_a_failure(name, room):
    model = copy.deepcopy(head(name))
    model.classifier.bias.data[-1] = float("nan")
    with pytest.raises(Failure, match=r"outputs of .* are not finite"):
        evaluate(name, model, word_tokenizer(), room(name) / "dev.jsonl")


@pytest.mark.parametrize("name", TABLES)
def test_evaluate_beside_a_baseline_on_few_examples(name, room, capsys):
    task, folder = TASKS[name], room(name)
    words = ["evaluate", folder / "model0", "--task", name, "--data", folder / "few.jsonl"]
    words += ["--baseline", folder / "model1"]
    first, second = (expected(task, said(name, seed), slice(FEW)) for seed in (0, 1))
    found = told(capsys, *words)
    same(found["models"][0], first)
    same(found["baseline"], second | {"difference": first["score"] - second["score"]})
    assert found["models"][0]["n"] == found["baseline"]["n"] == FEW
    if name not in ("mrpc", "mnli", "stsb"):
        return  # one task of each kind is printed too
    assert tlm(*words, "-q") == 0
    printed = capsys.readouterr().out.split()
    assert f"{first['score']:.4f}" in printed and f"{second['score']:.4f}" in printed


def test_an_interval_is_that_of_resamples(room, capsys):
    """Resampled here by other draws: its ends lie within a tenth of its width of these."""
    name, draw = "mnli", np.random.default_rng(7)
    folder = room(name)
    words = ["evaluate", folder / "model0", "--task", name, "--data", folder / "dev.jsonl"]
    low, high = told(capsys, *words, "--baseline", folder / "model1")["baseline"]["interval"]
    right = [said(name, seed) == labels(name) for seed in (0, 1)]
    some = draw.integers(0, COUNT, (4000, COUNT))
    ends = np.quantile(right[0][some].mean(1) - right[1][some].mean(1), [0.025, 0.975])
    assert [low, high] == pytest.approx(ends.tolist(), abs=0.1 * (high - low))


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "mnli", "classification"])
def test_finetune(name, room, tmp_path, capsys):
    """Before training, after it, and in the history: of the model that is written."""
    task, folder, out = TASKS[name], room(name), tmp_path / "out"
    words = ["finetune", folder / "model0", "--task", name, "--data", folder, "--out", out]
    words += ["--steps", 3, "--batch", 8, "--lr", 1e-3, "--evaluate-every", 3, "-q"]
    assert tlm(*words) == 0
    report, printed = report_of(out), capsys.readouterr().out.split()
    trained = AutoModelForSequenceClassification.from_pretrained(out)
    before, after = (expected(task, each) for each in (said(name), answers(task, trained)))
    same(report["scores"]["before"], before)
    same(report["scores"]["after"], after)
    assert report["training"]["history"][-1]["score"] == pytest.approx(after["score"], abs=1e-6)
    assert f"{before['score']:.4f}" in printed and f"{after['score']:.4f}" in printed


def test_a_study(room, tmp_path, capsys):
    """Means, deviations and differences over seeds, of the score of each run."""
    out, folder = tmp_path / "out", room("stsb")
    words = ["finetune", folder / "model0", "--task", "stsb", "--data", folder, "--out", out]
    words += ["--seeds", 2, "--arms", "dense,svd", "--steps", 3, "--batch", 8, "--lr", 1e-3]
    assert tlm(*words, "--N", 1, "--n", 1, "--every", 1, "-q") == 0
    study, printed = report_of(out)["study"], capsys.readouterr().out.split()
    runs = {
        arm: [r["score"] for r in study["results"] if r["arm"] == arm] for arm in ("dense", "svd")
    }
    for each in study["arms"]:
        scores = runs[each["arm"]]
        assert each["scores"] == scores and len({*scores}) > 1
        found = each["mean"], each["deviation"]
        assert found == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
        assert {f"{x:.4f}" for x in found} <= {*printed}
    (pair,) = study["pairs"]
    known = stats.ttest_rel(runs[pair["first"]], runs[pair["second"]])
    assert pair["difference"] == pytest.approx(np.subtract(*runs.values()).mean())
    assert pair["p"] == pair["p_holm"] == pytest.approx(known.pvalue)
