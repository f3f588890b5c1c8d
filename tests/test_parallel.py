"""Sentence pairs: aligned files, tables, data sets of the Hub; what is wrong is one sentence."""

import json
import re
from pathlib import Path

import pytest

from tlmtool.data.parallel import languages_of, parallel_pairs, parallel_splits
from tlmtool.failure import NotLoadable, Usage

EN = [f"the cat {i}" for i in range(20)]
DE = [f"die Katze {i}" for i in range(20)]
PAIRS = list(zip(EN, DE, strict=True))


def write(folder: Path, **files: list[str] | str) -> Path:
    """`train_en=[...]` becomes train.en."""
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        text = lines if isinstance(lines, str) else "\n".join(lines) + "\n"
        (folder / ".".join(name.rsplit("_", 1))).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("dev", ["dev", "val", "valid", "validation", "test"])
@pytest.mark.parametrize("languages", ["en-de", "de-en"])
def test_aligned_files_in_either_direction(tmp_path, dev, languages):
    more = {f"{dev}_en": EN[:3], f"{dev}_de": DE[:3]}
    folder = write(tmp_path, train_en=EN, train_de=DE, **more)
    found = parallel_splits(folder, languages)
    turned = [pair[:: 1 if languages == "en-de" else -1] for pair in PAIRS]
    assert found == (turned, turned[:3], str(folder))
    assert parallel_pairs(folder, languages) == turned[:3]


def test_scoring_needs_no_training_files_and_takes_one_file_whole(tmp_path):
    folder = write(tmp_path, val_en=EN[:3], val_de=DE[:3], test_en=EN, test_de=DE)
    assert parallel_pairs(folder, "en-de") == PAIRS[:3]
    assert parallel_pairs(folder / "test.en", "en-de") == PAIRS
    found = parallel_splits(folder / "test.de", "en-de")
    assert (found.train, found.dev) == (PAIRS[:9] + PAIRS[10:19], [PAIRS[9], PAIRS[19]])
    assert "every tenth" in found.source


def test_a_line_is_what_ends_in_a_newline_and_empty_pairs_are_left_out(tmp_path):
    odd = ["a\u2028b", "  c ", "", "d\x85"]
    folder = write(tmp_path, dev_en=odd, dev_de="1\r\n2\r\n \r\n4")
    assert parallel_pairs(folder, "en-de") == [("a\u2028b", "1"), ("c", "2"), ("d", "4")]


def rows(pairs: list[tuple[str, str]], *names: str) -> list[str]:
    return [json.dumps(dict(zip(names, pair, strict=True))) for pair in pairs]


@pytest.mark.parametrize(
    ("names", "languages", "columns"),
    [
        (("source", "target"), None, {}),
        (("source", "target"), "en-de", {}),
        (("en", "de"), "en-de", {}),
        (("a", "b"), None, {"text": "a", "label": "b"}),
        (("b", "de"), "en-de", {"text": "b"}),
    ],
)
def test_columns_of_a_table(tmp_path, names, languages, columns):
    folder = write(tmp_path, train_jsonl=rows(PAIRS, *names), dev_jsonl=rows(PAIRS[:4], *names))
    assert parallel_splits(folder, languages, **columns)[:2] == (PAIRS, PAIRS[:4])
    assert parallel_pairs(folder / "train.jsonl", languages, **columns) == PAIRS
    assert len(parallel_splits(folder / "train.jsonl", languages, **columns).dev) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "tsv"])
def test_tables_as_the_hub_has_them_and_others(tmp_path, suffix):
    file = tmp_path / f"train.{suffix}"
    made = [{"translation": {"en": a, "de": b}} for a, b in PAIRS]
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(__import__("pyarrow").Table.from_pylist(made), file)
    elif suffix == "tsv":
        file.write_text("".join(f"{a}\t{b}\n" for a, b in [("en", "de"), *PAIRS]))
    else:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    assert parallel_pairs(file, "de-en") == [pair[::-1] for pair in PAIRS]
    with pytest.raises(Usage, match=r"de and en, and which way .* --languages de-en or en-de"):
        parallel_pairs(file)


def test_the_part_of_a_hub_data_set_is_named_by_the_languages(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*names):
        asked.append(names)
        made = [{"translation": {"en": a, "de": b}} for a, b in PAIRS]
        return {"train": made, "validation": made[:3], "test": made}

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["cs-en", "de-en"])
    found = parallel_splits("wmt/wmt16", "en-de")
    assert asked == [("wmt/wmt16", "de-en")] and found[:2] == (PAIRS, PAIRS[:3])
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default"])
    parallel_splits("some/pairs", "en-de")
    assert asked[1:] == [("some/pairs",)]


GOOD = {"train_en": EN, "train_de": DE, "val_en": EN[:2], "val_de": DE[:2]}
BAD = [  # changes of GOOD (None: no such file), languages, what is said
    ({}, None, "holds de and en, and which way to translate cannot be guessed: give --languages"),
    ({"train_fr": EN}, None, "holds de, en and fr, and which"),
    ({"train_de": None, "val_de": None}, "en-de", "has files of en and none of de: .* both sides"),
    ({"train_de": None, "val_de": None}, None, "has files of en and none of another language"),
    ({"train_de": None}, "en-de", "train.en has no train.de beside it: .* both sides"),
    ({"val_en": None}, "en-de", "val.de has no val.en beside it"),
    ({"val_en": None, "val_de": None}, "en-de", r"has no dev.en and dev.de \(or validation, "),
    ({}, "en-fr", "has no files of fr: it has de, en"),
    ({"train_de": ""}, "en-de", "train.de is empty: it should hold a sentence"),
    ({"val_en": "\n \n"}, "en-de", "val.en is empty"),
    ({"train_de": DE[1:]}, "en-de", "train.en has 20 lines and train.de has 19: aligned files"),
    ({"train_de": [*DE[:4], " ", *DE[5:]]}, "en-de", "line 5 of .*train.de is empty and line 5 of"),
    ({"train_en": [*EN[:4], "", *EN[5:]]}, "en-de", "line 5 of .*train.en is empty and line 5 of"),
    (dict.fromkeys(GOOD), "en-de", "holds no sentence pairs: translation needs a folder"),
]


@pytest.mark.parametrize(("changes", "languages", "says"), BAD, ids=range(len(BAD)))
def test_bad_files_are_one_sentence(tmp_path, changes, languages, says):
    files = {name: lines for name, lines in (GOOD | changes).items() if lines is not None}
    folder = write(tmp_path / "data", **files)
    with pytest.raises((NotLoadable, Usage), match=says) as caught:
        parallel_splits(folder, languages)
    assert "\n" not in str(caught.value)
    assert caught.type is (Usage if "which way" in str(caught.value) else NotLoadable)


@pytest.mark.parametrize(
    ("lines", "languages", "says"),
    [
        (rows([*PAIRS, ("", "x")], "en", "de"), "en-de", "column en of line 21 of .* is empty and"),
        (rows([*PAIRS, ("x", None)], "en", "de"), "en-de", "line 21 .*: column de holds no text"),
        (rows(PAIRS, "en", "de"), "en-fr", "has no column fr or target: it has en, de"),
        (rows(PAIRS, "a", "b"), None, "holds a and b, and which way to translate cannot"),
        (rows([("", "")] * 3, "en", "de"), "en-de", "is empty: it holds no pair"),
        (rows(PAIRS[:9], "en", "de"), "en-de", "holds 9 examples: 10 are needed"),
        (['{"translation": "x"}'] * 10, "en-de", "holds no sentences by language"),
        (['{"translation": {"en": "x"}}'] * 10, "en-de", "has no column de"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, lines, languages, says):
    file = write(tmp_path, train_jsonl=lines) / "train.jsonl"
    with pytest.raises((NotLoadable, Usage), match=says):
        parallel_splits(file, languages)


@pytest.mark.parametrize("given", ["en", "en-en", "en-de-fr", "-de", "en-"])
def test_languages_are_two(given):
    with pytest.raises(Usage, match=re.escape(f"--languages is {given}: name the source")):
        languages_of(given)


def test_what_is_no_data():
    with pytest.raises(Usage, match="needs --data"):
        parallel_splits(None, "en-de")
    with pytest.raises(NotLoadable, match="does not exist"):
        parallel_splits("no/such/folder", "en-de")
    with pytest.raises(Usage, match="is no table of pairs"):
        parallel_splits(__file__, "en-de")
