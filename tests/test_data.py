"""Reading data: what is accepted, what is refused in one sentence, and padding by hand."""

import sys
import types

import pytest
import torch
from conftest import word_tokenizer

from tlmtool.data import hub
from tlmtool.data.batching import batches
from tlmtool.data.labelled import sentence_pairs
from tlmtool.data.language import language_splits
from tlmtool.data.lessons import lesson
from tlmtool.data.reading import choose, texts
from tlmtool.failure import MissingDependency, NotLoadable, Usage
from tlmtool.measuring.samples import prompts_of


def test_texts_are_lines_without_mark_and_blanks(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone two\r\n\r\n   \nthree\xe2\x80\xa8four\n")
    assert texts(path) == ["one two", "three\u2028four"]


def test_samples_are_a_seeded_choice_in_order(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"line {i:03}" for i in range(100)))
    first = texts(path, 10, seed=1)
    assert len(set(first)) == 10 and first == sorted(first)
    assert first == texts(path, 10, seed=1) != texts(path, 10, seed=2)
    assert texts(path, 1000) == texts(path)
    with pytest.raises(Usage, match="samples is 0"):
        choose(["a"], 0, 0)


def test_a_prompt_may_be_one_word(tmp_path):
    (tmp_path / "prompts.txt").write_text("Once\n\n")
    assert prompts_of(str(tmp_path / "prompts.txt")) == ["Once"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"word\n", "one word"),
        (b"a b\0c", "is binary"),
        (b"caf\xe9 au lait", "not UTF-8"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, sentence):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(NotLoadable, match=sentence) as caught:
        texts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.code == 4


def test_a_missing_file_and_a_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NotLoadable, match="does not exist"):
        texts(tmp_path / "none.txt")
    with pytest.raises(NotLoadable, match="is a directory"):
        texts(tmp_path)
    with pytest.raises(MissingDependency, match="pip install datasets"):
        texts("someone/some-data")


def test_a_data_set_is_read_by_datasets(monkeypatch):
    rows = {"label": [0, 1], "text": ["a b", "c d"]}

    class Split:
        def __len__(self):
            return 2

        def __getitem__(self, key):
            return {k: v[key] for k, v in rows.items()} if isinstance(key, int) else rows[key]

    def load_dataset(name):
        if name != "someone/some-data":
            raise RuntimeError("no such data\nset")
        return {"test": None, "train": Split()}

    fake = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(hub, "unreachable", lambda: "")
    assert texts("someone/some-data") == ["a b", "c d"]
    with pytest.raises(NotLoadable, match=r"no such data$"):
        texts("someone/other")


PAIRS = [('He said "no".', "a, b", 2.5), ("x y", "z", 0.0)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", '"He said ""no"".","a, b",2.5\nx y,z,0\n'),
        ("a.csv", 'score,sentence2,sentence1\n2.5,"a, b","He said ""no""."\n0,z,x y\n'),
        ("a.tsv", 'index\tsentence1\tsentence2\tlabel\n0\tHe said "no".\ta, b\t2.5\n1\tx y\tz\t0'),
        ("a.tsv", 'Sentence2\tSENTENCE1\tScore\na, b\tHe said "no".\t2.5\nz\tx y\t0\n'),
        ("a.tsv", '\ufeffHe said "no".\ta, b\t2.5\r\n\r\nx y\tz\t0\r\n'),
    ],
)
def test_pairs_in_every_accepted_layout(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    assert sentence_pairs(path) == PAIRS


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b,1\nc,d\n", "line 2 .* has 2 fields"),
        ("a,b,1\nc,d,e,2\n", "line 2 .* has 4 fields"),
        ("a,b\n", "line 1 .* has 2 fields"),
        ("a,b,1\nc,d,high\n", "line 2 .*'high' is not a finite number"),
        ("a,b,1\nc,d,nan\n", "line 2 .*not a finite number"),
        ("sentence1,sentence2\na,b\n", "no column score or label"),
        ('a,b,1\n"c,d,2\n', "is not csv"),
        ("a,b,1\n", "one sentence pair"),
        ("", "is empty"),
    ],
)
def test_wrong_pairs_are_refused_with_their_line(tmp_path, content, sentence):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(NotLoadable, match=sentence):
        sentence_pairs(path)


def test_wrong_pairs_are_named_by_the_line_that_they_start_in(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text('a,b,1\n"c\nd",e\n')
    with pytest.raises(NotLoadable, match=r"line 2 .* has 2 fields"):
        sentence_pairs(path)


def lines(n):
    return "".join(f"text number {i}\n" for i in range(n))


@pytest.mark.parametrize("dev", ["dev", "valid", "validation", "val"])
def test_language_of_a_folder_is_its_two_files(tmp_path, dev):
    (tmp_path / "train.txt").write_text(lines(3))
    (tmp_path / f"{dev}.txt").write_text("other words\n")
    train, held, source = language_splits(str(tmp_path))
    assert (len(train), held, source) == (3, ["other words"], str(tmp_path))
    (tmp_path / "test.txt").write_text("")
    (tmp_path / f"{dev}.txt").write_text("")
    with pytest.raises(NotLoadable, match=rf"{dev}\.txt is empty"):
        language_splits(tmp_path)


def test_language_of_a_folder_with_several_development_files_reads_one(tmp_path):
    for name in ("train", "dev", "valid"):
        (tmp_path / f"{name}.txt").write_text(f"words of {name}\n")
    assert language_splits(tmp_path)[:2] == (["words of train"], ["words of dev"])


@pytest.mark.parametrize(("there", "lacks"), [("train", "dev"), ("dev", "train")])
def test_half_a_folder_of_language_is_refused(tmp_path, there, lacks):
    (tmp_path / f"{there}.txt").write_text(lines(20))
    with pytest.raises(NotLoadable, match=rf"a {there} file of texts and no {lacks}\.txt"):
        language_splits(tmp_path)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_language_of_a_file_is_held_out_of_it_or_refused(tmp_path, n):
    path = tmp_path / "a.txt"
    path.write_text(lines(n))
    if n < 8:
        with pytest.raises(NotLoadable, match=f"has {n} texts: 8 are needed"):
            language_splits(path)
        return
    train, held, source = language_splits(path)
    assert held and len(held) <= 64 and not set(train) & set(held) and source == str(path)
    assert len(train) + len(held) == n


def test_language_of_nothing_is_the_shipped_text():
    train, held, source = language_splits(None)
    assert train and held and "comes with tlm" in source


def test_a_lesson_is_read_by_the_same_rules(tmp_path):
    pair = "sentence1,sentence2,score\n" + "".join(f"a {i},b {i},1\n" for i in range(3))
    (tmp_path / "few.csv").write_text(pair)
    with pytest.raises(NotLoadable, match=r"few\.csv holds 3 examples: 10 are needed"):
        lesson(str(tmp_path / "few.csv"))
    (tmp_path / "few.txt").write_text(lines(7))
    with pytest.raises(NotLoadable, match=r"few\.txt has 7 texts: 8 are needed"):
        lesson(str(tmp_path / "few.txt"))
    (tmp_path / "train.csv").write_text(pair)
    (tmp_path / "val.csv").write_text(pair.replace("a ", "c ").replace("b ", "d "))
    found = lesson(str(tmp_path))
    assert len(found.sentences) == 6 and len(found.scored) == 3 and not found.held
    for name in ("train.csv", "val.csv", "few.csv"):
        (tmp_path / name).unlink()
    (tmp_path / "train.txt").write_text(lines(3))
    (tmp_path / "dev.txt").write_text(lines(200))
    found = lesson(str(tmp_path))
    assert len(found.sentences) == 3 and 32 <= len(found.held) <= 64


def test_batches_hold_every_text_once_longest_first():
    given = ["the cat", "a", "the cat sat on a mat", "dogs ran far", "and"]
    seen = []
    for part in batches(word_tokenizer(), given, batch=2, max_length=6):
        lengths = part.inputs["attention_mask"].sum(1).tolist()
        seen += list(zip(part.indices, lengths, strict=True))
        assert part.inputs["input_ids"].shape == (len(part.indices), max(lengths))
        assert part.special.sum(1).tolist() == [max(lengths) - n + 2 for n in lengths]
    assert dict(seen) == {0: 4, 1: 3, 2: 6, 3: 5, 4: 3}  # [CLS], words, [SEP]; cut to 6
    assert [n for _, n in seen] == [6, 5, 4, 3, 3]


def test_a_tokenizer_without_padding_pads_with_its_end_and_masks_only_that():
    tokenizer = word_tokenizer(pad=False)
    assert tokenizer.pad_token_id is None
    (part,) = batches(tokenizer, ["a", "the cat sat"], batch=8)
    assert part.indices == [1, 0]
    assert part.inputs["input_ids"][1].tolist()[2:] == [3, 3, 3]  # its own end, then padding
    assert part.inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]


def test_what_the_tokenizer_file_says_of_padding_is_not_used():
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.enable_truncation(3)
    (part,) = batches(tokenizer, ["the cat sat"], max_length=128)
    assert part.inputs["input_ids"].shape == (1, 5)
    assert torch.equal(part.inputs["attention_mask"], torch.ones(1, 5, dtype=torch.long))


def test_a_length_without_room_for_a_token_is_refused():
    with pytest.raises(Usage, match="max length is 2"):
        next(batches(word_tokenizer(), ["a"], max_length=2))
