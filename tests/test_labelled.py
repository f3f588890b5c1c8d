"""Labelled examples from every accepted layout, and bad tables as one sentence with the line."""

import json
import socket

import pytest

from tlmtool.data.glue import GLUE
from tlmtool.data.labelled import Example, examples, splits
from tlmtool.failure import MissingDependency, NotLoadable, Usage

COLA = 'gj04\t1\t\tDogs "bark.\ngj04\t0\t*\tBark dogs.\n'
LAYOUTS = {  # task: (train file as GLUE has it, its first example)
    "cola": (COLA, Example('Dogs "bark.', None, 1)),
    "sst2": ("sentence\tlabel\nfine \t1\nbad \t0\n", Example("fine ", None, 1)),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\ta\tb\n1\t3\t4\tc\td\n",
        Example("a", "b", 0),
    ),
    "stsb": (
        "index\tgenre\tsentence1\tsentence2\tscore\n0\tx\ta\tb\t2.5\n1\tx\tc\td\t5.0\n",
        Example("a", "b", 2.5),
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n",
        Example("a", "b", 1),
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n",
        Example("a", "b", 0),
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb\t1\n1\t3\t4\tc\td\t0\n",
        Example("a", "b", 1),
    ),
    "mnli": (
        "index\tsentence1\tsentence2\tgold_label\n0\tq\tr\t-\n1\ta\tb\tcontradiction\n",
        Example("a", "b", 2),
    ),
}


@pytest.mark.parametrize("task", GLUE)
def test_a_folder_as_glue_lays_it_out(task, tmp_path):
    text, first = LAYOUTS[task]
    (tmp_path / "train.tsv").write_text(text)
    (tmp_path / ("dev_matched.tsv" if task == "mnli" else "dev.tsv")).write_text(text)
    found = splits(task, tmp_path)
    assert found.train[0] == first and found.train == found.dev
    assert len(found.train) == (1 if task == "mnli" else 2)


def test_the_columns_of_the_hub_in_jsonl_and_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": i % 3, "idx": i} for i in range(6)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "validation.parquet")
    found = splits("mnli", tmp_path)
    assert found.train == found.dev and found.train[2] == Example("p2", "h", 2)


def test_one_file_and_columns_of_ones_own(tmp_path):
    file = tmp_path / "own.csv"
    lines = [f'"text, {i}",{"ab"[i % 2]},{i}' for i in range(20)]
    file.write_text("\n".join(["words,kind,figure", *lines]) + "\n")
    found = splits("classification", file, text="words", label="kind")
    assert found.task.labels == ("a", "b") and (len(found.train), len(found.dev)) == (18, 2)
    assert found.train[1] == Example("text, 1", None, 1) and "set aside" in found.source
    figures = splits("regression", file, text="words", label="figure")
    assert figures.task.kind == "regression" and figures.train[3].label == 3.0


def test_scoring_reads_one_file_whole_with_the_classes_of_the_model(tmp_path):
    file = tmp_path / "held.csv"
    file.write_text("text,label\none,b\ntwo,c\n")
    task, found = examples("classification", file, classes=("a", "b", "c"))
    assert task.labels == ("a", "b", "c") and [each.label for each in found] == [1, 2]
    with pytest.raises(NotLoadable, match=r"line 3 .*'c' is out of range"):
        examples("classification", file, classes=("a", "b"))


BAD = {  # what is wrong: (task, name, text, what is said)
    "few fields": ("cola", "train.tsv", f"{COLA}gj04\t1\n", "line 3 of .* has 2 fields, 4"),
    "unbalanced": ("sst2", "train.csv", 'sentence,label\na,1\n"b,0\n', "line 3 .*quote does not"),
    "many fields": ("sst2", "train.csv", "sentence,label\na,b,0\n", "line 2 of .* has 3 fields"),
    "range": ("cola", "train.tsv", COLA.replace("\t0\t", "\t7\t"), "line 2 .*'7' is out of range"),
    "name": ("rte", "train.tsv", LAYOUTS["rte"][0].replace("not_", "non_"), "line 2 .*'non_entail"),
    "figure": ("stsb", "train.tsv", LAYOUTS["stsb"][0].replace("2.5", "much"), "line 2 .*'much'"),
    "nan": ("stsb", "train.tsv", LAYOUTS["stsb"][0].replace("2.5", "nan"), "not a finite number"),
    "no column": ("sst2", "train.tsv", "phrase\tlabel\na\t1\n", "no column sentence: it has"),
    "no rows": ("sst2", "train.tsv", "sentence\tlabel\n", "is empty"),
    "empty": ("sst2", "train.tsv", "", "is empty"),
    "not json": ("sst2", "train.jsonl", '{"sentence": "a", "label": 1}\n{oops}\n', "line 2 .*JSON"),
    "no object": ("sst2", "train.jsonl", "[1, 2]\n", "line 1 of .* no JSON object"),
    "no text": ("sst2", "train.jsonl", '{"sentence": null, "label": 1}\n', "holds no text"),
    "not parquet": ("sst2", "train.parquet", "PAR", "cannot be read as parquet"),
    "one class": ("classification", "train.csv", "text,label\na,1\nb,1\n", "1 classes in label"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_table_is_one_sentence(wrong, tmp_path):
    task, name, text, says = BAD[wrong]
    (tmp_path / name).write_text(text)
    (tmp_path / "dev.tsv").write_text(LAYOUTS.get(task, LAYOUTS["sst2"])[0])
    with pytest.raises(NotLoadable, match=says) as caught:
        splits(task, tmp_path)
    assert "\n" not in str(caught.value) and "nternal" not in str(caught.value)


def test_a_byte_order_mark_and_windows_ends_are_read(tmp_path):
    text = "sentence,label\r\nfine,1\r\nbad,0\r\n"
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert splits("sst2", tmp_path).train == [Example("fine", None, 1), Example("bad", None, 0)]


def test_missing_splits_folders_and_tasks(tmp_path):
    (tmp_path / "train.tsv").write_text(COLA)
    with pytest.raises(NotLoadable, match="has no dev file"):
        splits("cola", tmp_path)
    with pytest.raises(NotLoadable, match="does not exist"):
        splits("cola", tmp_path / "none.tsv")
    with pytest.raises(Usage, match="did you mean mrpc"):
        splits("mrcp", tmp_path)


def test_the_hub_is_asked_and_says_why_not(monkeypatch):
    """Up to the network: the name and the task reach `datasets`, whose failure is one sentence."""
    pytest.importorskip("datasets")

    def none(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", none)
    monkeypatch.setattr(socket, "getaddrinfo", none)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotLoadable, match="nyu-mll/glue cannot be loaded by `datasets`"):
        splits("cola", None)


def test_a_data_set_of_the_hub_is_read_by_its_splits(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [{"sentence": "fine", "label": 1}, {"sentence": "bad", "label": 0}]
    asked = []

    def load(*names):
        asked.append(names)
        return {"train": rows, "validation": rows[:1], "test": rows}

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = splits("sst2", None)
    assert asked == [("nyu-mll/glue", "sst2")]
    assert (len(found.train), len(found.dev)) == (2, 1) and "of the Hub" in found.source


def test_without_datasets_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependency, match="pip install datasets"):
        splits("cola", None)
