"""The pages are plain English: short sentences, no words that a reader stumbles over."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
LONGEST = 30  # words of a sentence
ODD = re.compile(r"\bof (it|them)sel(f|ves)\b|\btaught by\b|\bwhose are\b|\bof which there\b", re.I)
HERE = re.compile(r"/(work|root|tmp|home)/\w|\bissue #?\d|\bpypi\.org|\bdevpi\b")
GENERATED = re.compile(r"<!-- generated: .*?<!-- end -->", re.S)  # from help texts

EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def prose(text: str) -> list[str]:
    """The paragraphs and list items of a page: no code, tables, headings, comments or markup."""
    text = re.sub(r"^```.*?^```$|<picture>.*?</picture>|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"^(\||#|---).*$", "", text, flags=re.M)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", text))
    parts = re.split(r"\n\s*\n|\n *(?:[-*]|\d+\.) +", f"\n{text}")
    return [" ".join(part.replace("*", "").split()) for part in parts if part.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a page, but for what is generated from help texts."""
    return [
        s
        for part in prose(GENERATED.sub("", text))
        for s in re.split(r"(?<=[.!?]) +|(?<=[.!?][)\"]) +", part)
    ]


def words(sentence: str) -> int:
    """Words: what is read as one; figures and signs alone are none."""
    return sum(bool(re.search(r"[A-Za-z]", word)) for word in sentence.split())


@EVERY
def test_sentences_are_short(page):
    long = [s for s in sentences(page.read_text("utf-8")) if words(s) > LONGEST]
    assert not long, f"{page.name}: {len(long)} sentences of more than {LONGEST} words: {long}"


@EVERY
def test_words_are_plain(page):
    text = page.read_text("utf-8")
    assert not ODD.search(text) and not HERE.search(text)


def test_these_checks_can_fail():
    long = " ".join(["word"] * 31)
    assert max(map(words, sentences(f"Short. {long}.\n"))) == 31
    assert max(map(words, sentences(f"* One item\n  of `code {long}`.\n* Two."))) == 4
    assert [words(s) for s in sentences("Two words. Three more words.\n\n| a table |\n")] == [2, 3]
    assert ODD.search("of itself 5") and ODD.search("Taught by it") and HERE.search("in /tmp/x")
