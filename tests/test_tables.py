"""Odd tables and texts: read where a user would expect it, else refused in one sentence with the
line, and in time that grows with the file, not with its square."""

import csv
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlmtool.data import tables
from tlmtool.data.labelled import examples, sentence_pairs, splits
from tlmtool.data.parallel import parallel_pairs
from tlmtool.data.reading import texts
from tlmtool.data.tables import rows
from tlmtool.failure import Failure, NotLoadable

FUZZ = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.fixture
def file(tmp_path):
    def write(content, name="t.jsonl"):
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name

    return write


def test_a_field_of_a_csv_may_be_of_any_length(file):
    usual, long = csv.field_size_limit(), "a " * 100_000
    path = file(f"text,label\n{long},0\n{long}b,1\n", "t.csv")
    assert [row["text"] for _, row in rows(path)] == [long, f"{long}b"]
    assert examples("classification", path)[1][1].first == f"{long}b"
    path = file(f"{long},b,0.5\n{long},c,1\n", "p.csv")
    assert sentence_pairs(path)[1][1:] == ("c", 1.0)
    with pytest.raises(NotLoadable, match=r"line 2 of .* is not csv: a quote does not close"):
        rows(file(f'text,label\n"{long},0\n', "t.csv"))
    assert csv.field_size_limit() == usual


def test_names_of_columns_are_not_each_compared_with_all():
    compared = 0

    class Name(str):
        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    tables._once("line 1 of t.csv", tuple(Name(f"c{i}") for i in range(1000)))
    assert compared < 20_000


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"text": "a \\ud800", "label": 1}'], "line 3 of .*: no text|line 3 of .*lone surrogate"),
        (['{"\\udfff": "a"}'], "line 3 of .* holds a lone surrogate"),
        (['{"text": "a", "text": "b"}'], "line 3 of .* names column text 2 times"),
        (["[1]"], "line 3 of .* is no JSON object"),
        (['{"text": "a"'], "line 3 of .* is not JSON"),
        (["[" * 99_999], "line 3 of .* is not JSON"),
        (['{"label": 1' + "0" * 5000 + "}"], "line 3 of .* is not JSON"),
        (['{"text": 3, "label": 1}'], "line 3 of .*: column text holds no text but 3"),
        (['{"text": "a", "label": NaN}'], "line 3 of .*: the label nan is neither"),
        (['{"text": "a", "label": 1e999}'], "line 3 of .*: the label inf is neither"),
        (['{"text": "a", "label": {"a": 1}}'], "line 3 of .*: the label .* is neither"),
        (['{"text": "a"}'], "line 3 of .* has no label"),
    ],
)
def test_a_line_of_json_is_an_example_or_a_sentence(file, lines, says):
    good = '{"text": "b", "label": 0}'
    path = file("\n".join([good, "", *lines, good]))
    with pytest.raises(NotLoadable, match=says):
        examples("classification", path)


def test_whole_pairs_of_surrogates_are_text(file):
    path = file('{"text": "\\ud83d\\ude00", "label": 0}\n{"text": "\\\\ud800", "label": 1}\n')
    assert [e.first for e in examples("classification", path)[1]] == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("reading", [texts, rows, sentence_pairs])
def test_text_of_another_coding_is_named(file, coding, reading):
    path = file("text,label\na cat,0\n".encode(coding), "t.csv")
    with pytest.raises(NotLoadable, match="UTF-8"):
        reading(path)


@pytest.mark.parametrize("content", ["", "\n\n", "text,label", "\ufeff", "text,label\n\n \n", ","])
def test_a_table_without_rows(file, content):
    for reading in (rows, lambda path: splits("classification", path)):
        with pytest.raises(NotLoadable, match=r"is empty|holds no row"):
            reading(file(content, "t.csv"))


def test_line_ends_of_every_system(file):
    for end in ("\n", "\r\n", "\r"):
        path = file(f'\ufefftext,label{end}"a{end}b",0{end}{end}c,1{end}', "t.csv")
        places = [where.partition(" of ")[0] for where, _ in rows(path)]
        assert [row["text"] for _, row in rows(path)] == ["a\nb", "c"]
        assert places == ["line 2", "line 5"]


def test_a_header_of_thousands_is_told_in_few_words(file):
    names = ",".join(f"column-{i}" for i in range(20_000))
    path = file(f"{names}\n1,2\n", "t.csv")
    with pytest.raises(NotLoadable, match=r"line 2 of .* has 2 fields, 20000 are") as failure:
        rows(path)
    assert len(str(failure.value)) < 500
    path = file(f"{names}\n{names}\n", "t.csv")
    for reading in (lambda p: examples("classification", p), sentence_pairs):
        with pytest.raises(NotLoadable) as failure:
            reading(path)
        assert len(str(failure.value)) < 500


@pytest.mark.parametrize(
    "reading",
    [
        texts,
        sentence_pairs,
        rows,
        lambda path: splits("classification", path),
        lambda path: examples("cola", path),
        lambda path: parallel_pairs(path, "en-de"),
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, monkeypatch, reading):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe.csv", "pipe.parquet", "pipe.txt", "pipe"):
        os.mkfifo(name)
        if reading is rows and not name.endswith(tables.SUFFIXES):
            continue
        for path in (name, tmp_path / name):
            with pytest.raises(NotLoadable, match="is a named pipe"):
                reading(tables.Path(path))


def test_a_damaged_or_boastful_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    for raw in (b"", b"PAR1", b"PAR1" * 9, b"garbage"):
        path.write_bytes(raw)
        with pytest.raises(NotLoadable, match="cannot be read as parquet"):
            rows(path)
    odd = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": odd}), path)
    with pytest.raises(NotLoadable, match="cannot be read as parquet"):
        rows(path)


# ---- whatever it is, it ends well

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@FUZZ
@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.text('text,label\t"\n\r a1\ufeff-', max_size=60).map(str.encode),
        st.lists(
            st.builds(
                lambda text, label: json.dumps({"text": text, "label": label}).encode(), JSON, JSON
            ),
            max_size=3,
        ).map(b"\n".join),
    ),
    name=st.sampled_from(["f.csv", "f.tsv", "f.jsonl", "f.txt"]),
)
def test_any_file_is_data_or_a_sentence(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    for reading in (
        lambda: texts(path),
        lambda: sentence_pairs(path),
        lambda: examples("classification", path),
        lambda: examples("stsb", path),
        lambda: parallel_pairs(path, "en-de"),
    ):
        try:
            for each in reading():
                str(each).encode()
        except Failure as failure:
            assert 5 < len(str(failure)) < 600
