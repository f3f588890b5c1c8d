"""Labelled examples are read from every accepted layout, however their labels are written."""

import json

import pytest

from tlmtool.data.labelled import Example, examples, splits
from tlmtool.failure import NotLoadable
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


def test_a_byte_order_mark_and_windows_ends_are_read(tmp_path):
    text = "sentence,label\r\nfine,1\r\nbad,0\r\n"
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert splits("sst2", tmp_path).train == [Example("fine", None, 1), Example("bad", None, 0)]


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
