"""The classes of a head are those that its config names, in whatever order; tasks match by name."""

import json
from itertools import permutations

import pytest
import torch
from conftest import pico, sentences, word_tokenizer

from tlmtool.cli import run
from tlmtool.data.labelled import Example
from tlmtool.data.labels import matched
from tlmtool.failure import Usage
from tlmtool.measuring.evaluation import evaluate
from tlmtool.models import checkpoint
from tlmtool.tasks.table import GLUE
from tlmtool.training.distilling import Distilled
from tlmtool.training.objectives import Labelled

MNLI = GLUE["mnli"].labels
SPELLINGS = {  # as checkpoints name the classes of tasks, in the order of the task
    "mnli": [MNLI, ("ENTAILMENT", "NEUTRAL", "CONTRADICTION"), ("entail", "Neutral", "contradict")],
    "rte": [("entailment", "not_entailment"), ("ENTAILMENT", "NOT ENTAILMENT"), ("0", "1")],
    "sst2": [("NEGATIVE", "POSITIVE"), ("neg", "pos")],
    "cola": [("unacceptable", "acceptable"), ("Ungrammatical", "Grammatical")],
    "mrpc": [("not-equivalent", "equivalent"), ("not_paraphrase", "paraphrase")],
    "qqp": [("not duplicate", "duplicate"), ("different", "same")],
}
CASES = [(task, names) for task, several in SPELLINGS.items() for names in several]


def head(names, order, seed=0, family="bert"):
    """A classifier with its outputs, and their names, in this order."""
    model = pico(family, "classification", seed, num_labels=len(names))
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(20).copy_(parameter[list(order)])
    model.config.id2label = {i: names[k] for i, k in enumerate(order)}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    return model


def saved(folder, model):
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def table(file, task, labels):
    """Examples of a task of GLUE, their labels by name."""
    columns = [each[-1] for each in GLUE[task].texts] if task in GLUE else ["text"]
    lines = sentences(24)
    rows = [
        dict.fromkeys(columns, text) | {"label": labels[k * k % len(labels)]}
        for k, text in enumerate(lines)
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(file)


@pytest.mark.parametrize(("task", "names"), CASES)
def test_a_task_is_scored_by_the_names_of_the_head(task, names, tmp_path):
    data = table(tmp_path / "d.jsonl", task, GLUE[task].labels)
    tokenizer, several = word_tokenizer(), [*permutations(range(len(names)))]
    found = [evaluate(task, head(names, order), tokenizer, data) for order in several]
    assert len({each["models"][0]["score"] for each in found}) == 1
    assert not any(each["warnings"] for each in found)
    plain = evaluate(task, head(GLUE[task].labels, several[0]), tokenizer, data)
    assert found[0]["models"] == plain["models"]


def test_a_baseline_counts_its_own_classes(tmp_path):
    data, tokenizer = table(tmp_path / "d.jsonl", "mnli", MNLI), word_tokenizer()
    models = [head(SPELLINGS["mnli"][1], order) for order in ((2, 0, 1), (0, 1, 2))]
    found = evaluate("mnli", models[0], tokenizer, data, baseline=models[1])
    assert found["baseline"]["difference"] == 0
    assert found["baseline"]["score"] == found["models"][0]["score"]


def test_names_that_say_nothing_are_said_and_taken_in_order(tmp_path, capsys):
    data = table(tmp_path / "d.jsonl", "mnli", MNLI)
    name = saved(tmp_path / "m", pico("bert", "classification", num_labels=3))
    assert run(["evaluate", name, "--task", "mnli", "--data", data, "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    says = "LABEL_0, LABEL_1, LABEL_2, which says nothing"
    assert says in found["warnings"][0] and ", ".join(MNLI) in found["warnings"][0]
    train = ["finetune", name, "--task", "mnli", "--data", data, "--steps", "1", "-q"]
    assert run([*train, "--out", str(tmp_path / "o")]) == 0
    assert says in " ".join(json.loads((tmp_path / "o/report.json").read_text())["warnings"])
    assert [*checkpoint.load(tmp_path / "o").config.id2label.values()] == [*MNLI]


@pytest.mark.parametrize("names", [("entailment", "neutral", "other"), ("neutral", "a", "b")])
@pytest.mark.parametrize("verb", ["evaluate", "finetune"])
def test_names_that_match_in_part_are_refused(names, verb, tmp_path, capsys):
    name = saved(tmp_path / "m", head(names, (0, 1, 2)))
    line = [verb, name, "--task", "mnli", "--data", table(tmp_path / "d.jsonl", "mnli", MNLI)]
    assert run([*line, *(["--out", str(tmp_path / "o")] if verb == "finetune" else [])]) == 2
    said = capsys.readouterr().err
    assert ", ".join(names) in said and ", ".join(MNLI) in said and "only some match" in said


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_training_goes_on_in_the_order_of_the_head(order, tmp_path):
    names, task = SPELLINGS["mnli"][1], GLUE["mnli"]
    examples = [Example(text, None, k % 3) for k, text in enumerate(sentences(9))]
    models = head(MNLI, (0, 1, 2)), head(names, order)
    every = [Labelled(m, word_tokenizer(), task, examples, examples, 64) for m in models]
    with torch.no_grad():
        losses = [
            float(x.loss(m, m, x.part([*range(9)], 0))) for x, m in zip(every, models, strict=True)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    scores = [x.scored(m, examples) for x, m in zip(every, models, strict=True)]
    assert scores[0] == scores[1]
    data, out = table(tmp_path / "d.jsonl", "mnli", MNLI), tmp_path / "o"
    name = saved(tmp_path / "m", models[1])
    line = ["finetune", name, "--task", "mnli", "--data", data, "--steps", "1", "--lr", "1e-9"]
    assert run([*line, "--out", str(out), "-q"]) == 0
    kept = checkpoint.load(out).config.id2label
    assert kept == models[1].config.id2label
    report = json.loads((out / "report.json").read_text())
    assert report["scores"]["before"]["score"] == report["scores"]["after"]["score"]


@pytest.mark.parametrize("labelled", [False, True])
def test_a_teacher_teaches_classes_by_name(labelled):
    task = GLUE["mnli"]
    examples = [Example(text, None, k % 3) for k, text in enumerate(sentences(9))]
    student, losses = head(SPELLINGS["mnli"][2], (2, 0, 1), 1), []
    inner = Labelled(student, word_tokenizer(), task, examples, examples, 64)
    for order in permutations(range(3)):
        both = Distilled(student, head(SPELLINGS["mnli"][1], order), inner, None, 2.0, labelled)
        with torch.no_grad():
            losses.append(float(both.loss(student, student, both.part([*range(9)], 0))))
    assert losses == pytest.approx(losses[:1] * 6, rel=1e-5)
    with pytest.raises(Usage, match="only some match"):
        Distilled(student, head(("neutral", "yes", "no"), (0, 1, 2)), inner, None, 2.0, labelled)


def test_a_nameless_teacher_is_taken_in_the_order_of_the_task():
    task = GLUE["mnli"]
    examples = [Example(text, None, k % 3) for k, text in enumerate(sentences(9))]
    nameless, losses = head(("LABEL_0", "LABEL_1", "LABEL_2"), (0, 1, 2), 1), []
    for names, order in ((MNLI, (0, 1, 2)), (SPELLINGS["mnli"][1], (2, 1, 0))):
        named = head(names, order)
        for student, teacher in ((named, nameless), (nameless, named)):
            inner = Labelled(student, word_tokenizer(), task, examples, examples, 64)
            both = Distilled(student, teacher, inner, None, 2.0, True)
            with torch.no_grad():
                losses.append(float(both.loss(student, student, both.part([*range(9)], 0))))
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-5)


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1", "LABEL_2"), SPELLINGS["mnli"][1]])
def test_a_head_that_config_json_does_not_name_is_told_by_its_weights(names, tmp_path):
    """`architectures` is missing: the order taken is said, or is that of the names."""
    data, out = table(tmp_path / "d.jsonl", "mnli", MNLI), tmp_path / "o"
    name = saved(tmp_path / "m", head(names, (2, 1, 0) if names[0] != "LABEL_0" else (0, 1, 2)))
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": None}))
    line = ["finetune", name, "--task", "mnli", "--data", data, "--steps", "1", "-q"]
    assert run([*line, "--out", str(out)]) == 0
    said = " ".join(json.loads((out / "report.json").read_text())["warnings"])
    assert ("which says nothing" in said) == (names[0] == "LABEL_0")


def test_no_names_match_nothing():
    assert matched(MNLI, (), "a base model") is None


def test_classes_of_ones_own_are_those_of_the_head(tmp_path, capsys):
    """By name whatever their case; by number as the head counts; and some of them will do."""
    names = ("Sport", "World News", "Art")
    name = saved(tmp_path / "m", head(names, (1, 2, 0)))
    own = [*checkpoint.load(name).config.id2label.values()]
    files = {
        "names": table(tmp_path / "a.jsonl", "own", own),
        "other case": table(
            tmp_path / "b.jsonl", "own", [x.lower().replace(" ", "_") for x in own]
        ),
        "numbers": table(tmp_path / "c.jsonl", "own", [0, 1, 2]),
    }
    some = table(tmp_path / "e.jsonl", "own", own[:2])
    scores = []
    for data in files.values():
        flags = ["--task", "classification", "--data", data]
        assert run(["evaluate", name, *flags, "--json", "-q"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["models"][0]["score"])
    assert len(set(scores)) == 1
    for data in (files["other case"], files["numbers"], some):
        line = ["finetune", name, "--task", "classification", "--data", data, "--steps", "1"]
        assert run([*line, "--overwrite", "--out", str(tmp_path / "o"), "-q"]) == 0
        assert [*checkpoint.load(tmp_path / "o").config.id2label.values()] == own


def test_names_that_stand_in_label2id_alone_are_names(tmp_path, capsys):
    order = ("not_entailment", "entailment")
    data = table(tmp_path / "d.jsonl", "rte", GLUE["rte"].labels)
    name, scores = saved(tmp_path / "m", head(GLUE["rte"].labels, (1, 0))), []
    file = tmp_path / "m" / "config.json"
    for _ in range(2):
        assert run(["evaluate", name, "--task", "rte", "--data", data, "--json", "-q"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["models"][0]["score"])
        config = json.loads(file.read_text())
        config.pop("id2label", None)
        config["label2id"] = {each: i for i, each in enumerate(order)}
        file.write_text(json.dumps(config))
    assert scores[0] == scores[1]
    line = ["finetune", name, "--task", "rte", "--data", data, "--steps", "1", "-q"]
    assert run([*line, "--out", str(tmp_path / "o")]) == 0
    assert [*checkpoint.load(tmp_path / "o").config.id2label.values()] == [*order]
