"""Labelled tables that cannot be read, or are not there, are refused in one sentence."""

import socket

import pytest
from test_labelled import COLA, LAYOUTS, RTE, STSB

from tlmtool.data.labelled import examples, splits
from tlmtool.failure import MissingDependency, NotLoadable, Usage

MNLI = "".join(LAYOUTS["mnli"][0].splitlines(keepends=True)[:2])
OWN = '{"text": "a", "label": %s}\n'
HUB = '{"sentence": "a", "label": %s}\n'
BAD = {  # what is wrong: (task, name, text, what is said)
    "few fields": ("cola", "train.tsv", f"{COLA}gj04\t1\n", "line 3 of .* has 2 fields, 4"),
    "unbalanced": ("sst2", "train.csv", 'sentence,label\na,1\n"b,0\n', "line 3 .*quote does not"),
    "after quote": ("sst2", "train.csv", 'sentence,label\n"a" b,1\n', "line 2 .*a quote twice"),
    "many fields": ("sst2", "train.csv", "sentence,label\na,b,0\n", "line 2 of .* has 3 fields"),
    "range": ("cola", "train.tsv", COLA.replace("\t0\t", "\t7\t"), "line 2 .*'7' is out of range"),
    "minus": ("sst2", "train.tsv", "sentence\tlabel\na\t-1\n", "line 2 .*'-1' is out of range"),
    "name": ("rte", "train.tsv", RTE.replace("not_", "non_"), "line 2 .*'non_entail"),
    "part": ("sst2", "train.jsonl", HUB % 1 + HUB % 0.7, "line 2 .*label 0.7 is neither"),
    "text part": ("sst2", "train.csv", "sentence,label\na,0.7\n", "line 2 .*'0.7' is out of range"),
    "nan class": ("sst2", "train.jsonl", HUB % "NaN", "line 1 .*label nan is neither"),
    "endless class": ("sst2", "train.jsonl", HUB % "1e400", "line 1 .*label inf is neither"),
    "list class": ("sst2", "train.jsonl", HUB % "[1]", r"line 1 .*label \[1\] is neither"),
    "own part": ("classification", "train.jsonl", OWN % 0.5, "line 1 .*label 0.5 is neither"),
    "figure": ("stsb", "train.tsv", STSB.replace("2.5", "much"), "line 2 .*'much'"),
    "nan": ("stsb", "train.tsv", STSB.replace("2.5", "nan"), "not a finite number"),
    "above": ("stsb", "train.tsv", STSB.replace("2.5", "29.5"), "line 2 .*'29.5' .*0 and 5"),
    "below": ("stsb", "train.tsv", STSB.replace("5.0", "-3"), "line 3 .*'-3' .*0 and 5"),
    "endless": ("regression", "train.jsonl", OWN % "1e400", "line 1 .*not a finite"),
    "long": ("regression", "train.jsonl", OWN % ("9" * 400), "line 1 .*not a finite"),
    "no column": ("sst2", "train.tsv", "phrase\tlabel\na\t1\n", "no column sentence: it has"),
    "column twice": ("sst2", "train.csv", "sentence,label,label\na,1,0\n", "line 1 .*label 2"),
    "no key": ("sst2", "train.jsonl", HUB % 1 + '{"sentence": "b"}', "line 2 .*label is empty"),
    "no first key": ("sst2", "train.jsonl", '{"sentence": "b"}\n' + HUB % 1, "line 1 .* no label"),
    "no text key": ("sst2", "train.jsonl", HUB % 1 + '{"label": 0}', "line 2 .*holds no text"),
    "no key of mnli": (
        "mnli",
        "train.jsonl",
        '{"premise": "a", "hypothesis": "b", "label": 0}\n{"premise": "a", "hypothesis": "b"}',
        "line 2 .*column label is empty",
    ),
    "no key of one's own": (
        "classification",
        "train.jsonl",
        OWN % '"x"' + '{"text": "b"}\n' + OWN % '"y"',
        "line 2 .*column label is empty",
    ),
    "empty labels": ("classification", "train.csv", "text,label\na,\nb,\n", "line 2 .*is empty"),
    "no agreement": ("mnli", "train.tsv", MNLI, "train.tsv is empty: every label"),
    "no rows": ("sst2", "train.tsv", "sentence\tlabel\n", "train.tsv is empty"),
    "no pairs": ("stsb", "train.csv", "sentence1,sentence2,score\n", "train.csv is empty"),
    "no sentences": ("cola", "train.tsv", "sentence\tlabel\tidx\n", "train.tsv is empty"),
    "empty": ("sst2", "train.tsv", "", "is empty"),
    "blank": ("stsb", "train.csv", " \n\n", "is empty"),
    "only a mark": ("sst2", "train.jsonl", "\ufeff", "is empty"),
    "not json": ("sst2", "train.jsonl", HUB % 1 + "{oops}\n", "line 2 .*JSON"),
    "no object": ("sst2", "train.jsonl", "[1, 2]\n", "line 1 of .* no JSON object"),
    "no text": ("sst2", "train.jsonl", '{"sentence": null, "label": 1}\n', "holds no text"),
    "a number": ("sst2", "train.jsonl", '{"sentence": 5, "label": 1}\n', "no text but 5"),
    "not parquet": ("sst2", "train.parquet", "PAR", "cannot be read as parquet"),
    "one class": ("classification", "train.csv", "text,label\na,1\nb,1.0\n", "every label is '1'"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_table_is_one_sentence(wrong, tmp_path):
    task, name, text, says = BAD[wrong]
    (tmp_path / name).write_text(text)
    own = "text\tlabel\nfine\t1\n"
    (tmp_path / "dev.tsv").write_text(LAYOUTS[task][0] if task in LAYOUTS else own)
    with pytest.raises(NotLoadable, match=says) as caught:
        splits(task, tmp_path)
    assert "\n" not in str(caught.value) and "nternal" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["", "sentence1,sentence2,score\n"])
@pytest.mark.parametrize("split", ["train", "dev"])
def test_an_empty_split_is_named_and_the_other_is_not_cut_in_its_place(split, wrong, tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("a,b,1\n" * 20)
    (tmp_path / f"{split}.csv").write_text(wrong)
    with pytest.raises(NotLoadable, match=rf"{split}\.csv is empty"):
        splits("stsb", tmp_path)


def test_a_file_too_short_to_set_a_tenth_aside_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label\n" + "a,1\n" * 9)
    with pytest.raises(NotLoadable, match="holds 9 examples: 10 are needed"):
        splits("sst2", tmp_path / "a.csv")


def test_a_column_that_is_asked_for_and_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    with pytest.raises(
        NotLoadable, match="no column kind, which --label-column names: it has text"
    ):
        splits("classification", tmp_path / "a.csv", label="kind")


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
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before each of its retries
    with pytest.raises(NotLoadable, match="no network: nyu-mll/glue is neither a file"):
        splits("cola", None)


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_an_empty_split_of_the_hub_is_named(monkeypatch, empty):
    datasets = pytest.importorskip("datasets")
    found = {name: [{"sentence": "a", "label": 1}] * 20 for name in ("train", "validation")}
    found[empty] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: found)
    with pytest.raises(NotLoadable, match=f"the split {empty} of nyu-mll/glue is empty"):
        splits("sst2", None)


def test_without_datasets_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependency, match="pip install datasets"):
        splits("cola", None)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_task_of_ones_own_needs_data(task):
    for read in (examples, splits):
        with pytest.raises(Usage, match=f"task {task} needs --data"):
            read(task, None)
