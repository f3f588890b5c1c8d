"""Guards how a causal language model reads text: joined, in windows, with a tail held out."""

import pytest
from conftest import sentences, word_tokenizer
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import processors

from tlmtool.data.batching import begin_token, joined_ids
from tlmtool.data.language import HELD_TOKENS, LEAST, PART, joined_split, language_splits, lines_of
from tlmtool.data.windows import ROOM, start_of_line, windows

LINES = sentences(300)
TEXT = "\n\n".join(LINES) + "\n"


def beginning():
    """A tokenizer that puts a begin token before a text."""
    made = word_tokenizer()
    made.bos_token = "[CLS]"
    template = {"single": "[CLS] $A", "special_tokens": [("[CLS]", 2)]}
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(**template)
    return made


@given(length=some.integers(2, 70), tokens=some.integers(70, 4000))
def test_windows_are_pieces_of_the_joined_text_and_no_more_than_asked(length, tokens):
    """A window of a text that is much longer starts with a line."""
    tokenizer = word_tokenizer()
    cut, whole = windows(tokenizer, TEXT, length, tokens), joined_ids(tokenizer, TEXT)
    rows = cut["input_ids"]
    assert rows and sum(map(len, rows)) <= max(tokens, length)
    assert all(0 < len(row) <= length for row in rows)
    said = " " + " ".join(map(str, whole)) + " "
    assert all(f" {' '.join(map(str, row))} " in said for row in rows)
    assert [len(each) for each in cut["special_tokens_mask"]] == [len(row) for row in rows]
    if len(TEXT) > tokens * ROOM:
        starts = {tuple(joined_ids(tokenizer, line)[:2]) for line in LINES}
        assert all(len(row) < 2 or tuple(row[:2]) in starts for row in rows)


def test_windows_of_a_short_text_hold_all_of_it_once():
    tokenizer = word_tokenizer()
    found = windows(tokenizer, TEXT, 64, 10**6)["input_ids"]
    assert [token for row in found for token in row] == joined_ids(tokenizer, TEXT)


def test_each_window_starts_with_the_begin_token():
    tokenizer = beginning()
    assert begin_token(tokenizer) == [2]
    for tokens in (100, 10**6):
        cut = windows(tokenizer, TEXT, 10, tokens)
        assert all(row[0] == 2 and 2 not in row[1:] for row in cut["input_ids"])
        assert all(mask[0] == 1 and not any(mask[1:]) for mask in cut["special_tokens_mask"])


@pytest.mark.parametrize("lines", [30, 100, 40_000])
def test_the_tail_is_held_out_whole_lines_and_a_third_at_most(tmp_path, lines):
    file = tmp_path / "text.txt"
    file.write_text(text := "\n".join(LINES[i % 300] for i in range(lines)))
    found = joined_split(file)
    assert found.rest + found.held == text and found.rest.endswith("\n")
    assert 0 < len(found.held) <= len(text) / PART
    longest = max(map(len, LINES)) + 1
    assert len(found.held) > min(len(text) / PART, HELD_TOKENS * ROOM) - longest
    line = text.count("\n", 0, len(found.rest)) + 1
    assert found.where == (
        f"the last {len(found.held):,} characters of {file}, from line {line:,} on"
    )
    train, dev, _ = language_splits(file, tail=True)
    assert (train, dev) == (lines_of(found.rest), lines_of(found.held))


@pytest.mark.parametrize("last", ["mat\n", "\n", ""])
def test_half_of_a_tail_is_held_out_at_least_where_it_is_one_line(tmp_path, last):
    file = tmp_path / "text.txt"
    file.write_text(text := "the cat sat on a mat " * 40 + "\n" + last)
    found = joined_split(file)
    assert found.rest + found.held == text and len(found.held) >= len(text) // PART // 2


def test_a_folder_has_a_text_for_each_and_of_a_short_text_nothing_is_held_out(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(f"words of {name}\n\n")
    found = joined_split(tmp_path)
    assert found[:2] == ("words of train\n\n", "words of valid\n\n")
    assert found.where == f"valid.txt of {tmp_path}"
    short = tmp_path / "short.txt"
    short.write_text("a word\n" * (LEAST // 7))
    assert joined_split(short).held == ""


@given(some.text(alphabet="ab \n", min_size=1), some.integers(0, 50))
def test_a_start_is_that_of_a_line_or_word(text, place):
    place = min(place, len(text) - 1)
    found = start_of_line(text, place)
    assert place <= found < len(text)
    assert found == place or text[found - 1] in " \n"
