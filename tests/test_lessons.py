"""One reader for rows with scores or labels: `evaluate`, `finetune` and `compress --data` take the
same layouts, and no scored text is among those that are learned from."""

import json
import sys
import types

import pytest

from tlmtool.data.labelled import examples, sentence_pairs, splits
from tlmtool.data.lessons import lesson, texts_of
from tlmtool.failure import Failure, NotLoadable

ROWS = [(f"left {i}", f"right {i}", i % 6 / 2) for i in range(24)]
NAMES = ("sentence1", "sentence2", "score")


def written(folder, suffix, rows, names=NAMES):
    """A table of rows in a folder, as a file named `train` by default."""
    mark = "\t" if suffix == "tsv" else ","
    lines = [mark.join(map(str, row)) for row in [names, *rows]]
    if suffix == "jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    if suffix == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pyarrow.table(columns), folder)
        return folder
    folder.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", [NAMES, ("one", "two", "gold"), ("Sentence1", "SENTENCE2", "L")])
def test_similarity_takes_every_layout_that_finetune_takes(tmp_path, suffix, names):
    asked = {"text": "one", "pair": "two", "label": "gold"} if names[0] == "one" else {}
    asked |= {"label": "L"} if names[2] == "L" else {}
    for task in ("similarity", "regression"):  # of which finetune takes the second
        file = written(tmp_path / f"a.{suffix}", suffix, ROWS, names)
        if names[0] != "Sentence1" or task == "similarity":
            assert examples(task, file, **asked)[1] == ROWS
        for split, part in (("train", ROWS[:20]), ("dev", ROWS[20:])):
            (tmp_path / "folder").mkdir(exist_ok=True)
            written(tmp_path / "folder" / f"{split}.{suffix}", suffix, part, names)
        if names[0] != "Sentence1" or task == "similarity":
            found = splits(task, tmp_path / "folder", **asked)
            assert (found.train, found.dev) == (ROWS[:20], ROWS[20:])
    assert sentence_pairs(tmp_path / "folder", **asked) == ROWS[20:]


def test_similarity_takes_a_data_set_of_the_hub(monkeypatch):
    held = {
        name: [dict(zip(NAMES, row, strict=True)) for row in rows]
        for name, rows in (("train", ROWS[:20]), ("validation", ROWS[20:]))
    }
    fake = types.SimpleNamespace(load_dataset=lambda name: held)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert sentence_pairs("someone/pairs") == ROWS[20:]
    found = lesson("someone/pairs", task="similarity")
    assert found.scored == ROWS[20:] and found.sentences == texts_of(ROWS[:20])


@pytest.mark.parametrize("fields", ["a\tb\t1\tx\n", "a\tb\n", "a,b,1,x\n"])
def test_rows_without_a_header_have_exactly_their_columns(tmp_path, fields):
    file = tmp_path / ("a.tsv" if "\t" in fields else "a.csv")
    file.write_text(fields * 3)
    with pytest.raises(NotLoadable, match="fields, 3 are expected"):
        sentence_pairs(file)


@pytest.mark.parametrize("whole", [False, True])
def test_no_scored_text_is_learned_from(tmp_path, whole):
    rows = [(f"text {i % 9}", f"text {i % 7}", 1.0 + i) for i in range(40)]
    file = written(tmp_path / "a.csv", "csv", rows)
    found = lesson(str(file), whole=whole)
    assert not {*found.sentences} & {*texts_of(found.scored)}
    assert len(found.scored) == (40 if whole else 4) and bool(found.sentences) != whole
    assert found.task.name == "similarity"


def test_a_head_decides_what_labels_mean_and_pairs_are_what_is_left(tmp_path):
    named = [(f"text {i}", ("bad", "good")[i % 2]) for i in range(24)]
    file = str(written(tmp_path / "a.csv", "csv", named, ("text", "label")))
    found = lesson(file, heads=("classification",), classes=("bad", "good"))
    assert found.task.labels == ("bad", "good") and len(found.scored) == 2
    none = lesson(file)
    assert none.task is None and not none.scored and none.held and "sentence1" in none.why
    assert not {*none.sentences} & {*none.held}
    pairs = str(written(tmp_path / "b.csv", "csv", ROWS))  # scores are no classes
    assert (
        lesson(pairs, heads=("classification",), classes=("bad", "good")).task.name == "similarity"
    )
    with pytest.raises(Failure, match=r"out of range|neither"):
        lesson(pairs, task="classification", heads=("classification",), classes=("bad", "good"))


def test_texts_that_are_all_scored_leave_nothing_to_learn(tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("train", "dev"):
        written(tmp_path / "d" / f"{name}.csv", "csv", ROWS)
    with pytest.raises(NotLoadable, match="every text of its training rows"):
        lesson(str(tmp_path / "d"))
