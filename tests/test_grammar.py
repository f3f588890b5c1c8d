"""The demo's acceptability task: fixed, balanced, and not to be told by counting words."""

import re
from collections import Counter

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef

from tlmtool.data import grammar
from tlmtool.data.labelled import splits


def test_sentences_are_fixed_different_and_balanced():
    found = grammar.sentences()
    assert found == grammar.sentences() and len(dict(found)) == grammar.COUNT
    assert 0.45 < np.mean([label for _, label in found]) < 0.55
    assert all(re.fullmatch(r"[A-Z][a-z]*( [a-z]+)+[.?]", text) for text, _ in found)
    assert found[:50] != grammar.sentences(seed=21)[:50]


def test_no_sentence_of_training_is_in_development():
    found = splits("grammar", None)
    train, dev = ({each.first for each in part} for part in (found.train, found.dev))
    assert (len(train), len(dev)) == (3600, 400) and not train & dev


def test_words_alone_do_not_tell_and_their_order_does_not_give_it_away():
    """A linear model of words is near chance: what is to be learned is agreement."""
    found = splits("grammar", None)
    train, dev = ([e.first for e in part] for part in (found.train, found.dev))
    words = CountVectorizer(token_pattern=r"\w+").fit(train)
    model = LogisticRegression(max_iter=2000)
    model.fit(words.transform(train), [e.label for e in found.train])
    said = model.predict(words.transform(dev))
    assert matthews_corrcoef([e.label for e in found.dev], said) < 0.3


def test_an_error_is_one_word_that_does_not_agree_or_two_that_changed_places():
    made, kinds = grammar._Draw(3), Counter()
    for _ in range(400):
        words, places = made.sentence()
        wrong = made.broken(words, places)
        apart = [i for i, (a, b) in enumerate(zip(words, wrong, strict=True)) if a != b]
        if len(apart) == 2:
            at = apart[0]
            assert (wrong[at], wrong[at + 1]) == (words[at + 1], words[at])
        else:
            assert (apart[0], wrong[apart[0]]) in places
        kinds[len(apart)] += 1
    assert set(kinds) == {1, 2} and 0.15 < kinds[2] / 400 < 0.35
