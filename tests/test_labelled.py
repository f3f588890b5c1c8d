"""Labelled examples from every accepted layout, and bad tables as one sentence with the line."""

import json
import socket

import pytest

from tlmtool.data.labelled import Example, examples, splits
from tlmtool.failure import MissingDependency, NotLoadable, Usage
from tlmtool.tasks.table import GLUE

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


RTE, STSB = LAYOUTS["rte"][0], LAYOUTS["stsb"][0]
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


@pytest.mark.parametrize(
    "text",
    [
        "sentence\tlabel\nDogs bark.\t1\nBark dogs.\t0\n",
        "idx\tlabel\tsentence\n0\t1\tDogs bark.\n1\t0\tBark dogs.\n",
        "\ufefflabel\tsentence\tidx\tmore\n1\tDogs bark.\t0\t\n0\tBark dogs.\t1\t\n",
        "gj04\t1\t\tDogs bark.\ngj04\t0\t*\tBark dogs.\n",
    ],
)
def test_cola_by_the_names_of_the_hub_or_without_a_header(text, tmp_path):
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(text)
    found = splits("cola", tmp_path)
    assert found.train == [Example("Dogs bark.", None, 1), Example("Bark dogs.", None, 0)]


def test_cola_with_a_header_of_names_that_are_asked_for(tmp_path):
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("kind\twords\n1\tDogs bark.\n")
    found = splits("cola", tmp_path, text="words", label="kind")
    assert found.train == [Example("Dogs bark.", None, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "a,b,2.5\n",
        "sentence1,sentence2,score\na,b,2.5\n",
        "label,idx,sentence2,sentence1\n2.5,0,b,a\n",
    ],
)
def test_stsb_as_csv_with_and_without_a_header(text, tmp_path):
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text(text)
    assert splits("stsb", tmp_path).train == [Example("a", "b", 2.5)]


def both(folder, text, suffix="csv", **more):
    """The classes, and the ids of the examples, of a classification that is train and dev."""
    for name in ("train", "dev"):
        (folder / f"{name}.{suffix}").write_text(text)
    found = splits(more.pop("task", "classification"), folder, **more)
    return found.task.labels, [each.label for each in found.train]


def test_a_whole_number_is_one_class_however_it_is_written(tmp_path):
    glue = "sentence,label\na,0.0\nb,1.0\nc,1\nd,positive\n"
    assert both(tmp_path, glue, task="sst2")[1] == [0, 1, 1, 1]
    for end in ("", ".0", "."):
        own = both(tmp_path, f"text,label\na,1{end}\nb,2{end}\nc,1\n")
        assert own == (("0", "1", "2"), [1, 2, 1])
    codes = both(tmp_path, "text,label\na,01\nb,2\n")
    assert codes == (("0", "1", "2"), [1, 2])
    signs = both(tmp_path, "text,label\na,1\nb,-1.0\n")
    assert signs == (("-1", "1"), [1, 0])
    (tmp_path / "held.csv").write_text("text,label\na,0\n")
    with pytest.raises(NotLoadable, match=r"'0' is out of range.* are -1, 1$"):
        examples("classification", tmp_path / "held.csv", classes=("-1", "1"))


def test_text_that_names_a_class_is_that_class(tmp_path):
    versions = both(tmp_path, "text,label\na,1.0\nb,1.5\nc,1.0\n")
    assert versions == (("1.0", "1.5"), [0, 1, 0])


def test_numbers_of_jsonl_and_parquet_may_be_floats(tmp_path):
    lines = "".join(f'{{"text": "a", "label": {n}}}\n' for n in ("1.0", "2.0", "1"))
    assert both(tmp_path, lines, "jsonl") == (("0", "1", "2"), [1, 2, 1])
    flags = "".join(f'{{"text": "a", "label": {n}}}\n' for n in ("true", "false"))
    assert both(tmp_path, flags, "jsonl")[1] == [1, 0]


def test_parquet_of_floats_and_with_gaps(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(name, columns):
        parquet.write_table(arrow.table(columns), tmp_path / f"{name}.parquet")

    write("train", {"text": ["a", "b"], "label": [2.0, 1.0]})
    write("dev", {"text": ["a", "b"], "label": [1.0, None]})
    with pytest.raises(NotLoadable, match=r"row 2 of .*dev\.parquet has no label"):
        splits("classification", tmp_path)
    write("dev", {"text": ["a", "b"], "label": [1.0, float("nan")]})
    with pytest.raises(NotLoadable, match=r"row 2 of .*the label nan is neither"):
        splits("classification", tmp_path)
    write("dev", {"text": ["a", None], "label": [1, 2]})
    with pytest.raises(NotLoadable, match=r"row 2 of .*column text holds no text"):
        splits("classification", tmp_path)
    write("dev", {"text": [], "label": []})
    with pytest.raises(NotLoadable, match=r"dev\.parquet is empty"):
        splits("classification", tmp_path)
    twice = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array([1]), arrow.array([0])],
                                    names=["text", "label", "label"])  # fmt: skip
    parquet.write_table(twice, tmp_path / "dev.parquet")
    with pytest.raises(NotLoadable, match="label 2 times"):
        splits("classification", tmp_path)
    write("dev", {"text": ["a"], "label": [1]})
    assert splits("classification", tmp_path).train[0] == Example("a", None, 2)


def test_a_figure_of_ones_own_has_no_bounds(tmp_path):
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text("text,label\na,-3\nb,29.5\n")
    assert [each.label for each in splits("regression", tmp_path).train] == [-3.0, 29.5]


def test_a_column_that_is_asked_for_and_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    with pytest.raises(
        NotLoadable, match="no column kind, which --label-column names: it has text"
    ):
        splits("classification", tmp_path / "a.csv", label="kind")


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
