"""tlm evaluate --task perplexity: its report, its table, and what it refuses."""

import json
import math

import conftest
import pytest
from conftest import MASKED, word_tokenizer
from test_perplexity import overlapping

from tlmtool.cli import run
from tlmtool.data.batching import joined_ids
from tlmtool.data.reading import joined


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Two small decoders, and a text with blank lines."""
    folder = tmp_path_factory.mktemp("perplexity")
    for seed, name in enumerate(("one", "two")):
        conftest.pico("gpt2", "lm", seed).save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    conftest.pico(MASKED[0], "lm").save_pretrained(folder / "masked")
    word_tokenizer().save_pretrained(folder / "masked")
    (folder / "text.txt").write_text("\n\n".join(conftest.sentences(40)) + "\n")
    return folder


def evaluated(room, capsys, *more: str) -> dict:
    words = [
        "evaluate",
        str(room / "one"),
        "--task",
        "perplexity",
        "--data",
        f"{room / 'text.txt'}",
    ]
    assert run([*words, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_reports_the_perplexity_and_how_it_was_measured(room, capsys):
    found = evaluated(room, capsys, "--window", "16", "--stride", "4", "--tokens", "100")
    ids = joined_ids(word_tokenizer(), joined(room / "text.txt"))[:100]
    model = conftest.pico("gpt2", "lm")
    expected = overlapping(model, ids, 16, 4)
    [score] = found["models"]
    assert score["loss"] == pytest.approx(expected, abs=1e-6)
    assert score["score"] == score["perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    assert (score["tokens"], score["n"]) == (99, 22)
    assert score["bounds"][0] < score["score"] < score["bounds"][1]
    assert [found[key] for key in ("window", "stride", "begin_token")] == [16, 4, False]
    assert any("99 tokens" in warning for warning in found["warnings"])


def test_a_baseline_is_compared_in_nats_and_by_the_ratio(room, capsys):
    found = evaluated(room, capsys, "--window", "16", "--baseline", str(room / "two"))
    mine, theirs = found["models"][0], found["baseline"]
    difference = mine["loss"] - theirs["loss"]
    assert theirs["difference"] == pytest.approx(difference, abs=1e-9)
    assert theirs["ratio"] == pytest.approx(mine["perplexity"] / theirs["perplexity"])
    low, high = theirs["interval"]
    assert low < difference < high
    assert theirs["ratio_interval"] == pytest.approx([math.exp(low), math.exp(high)])


def test_the_table_says_which_windows(room, capsys):
    words = [
        "evaluate",
        str(room / "one"),
        "--task",
        "perplexity",
        "--data",
        f"{room / 'text.txt'}",
    ]
    assert run([*words, "--baseline", str(room / "two"), "--fail-if", "perplexity>1"]) == 3
    told = capsys.readouterr()
    said = " ".join(told.out.split())
    assert "window 64, stride 64, no begin token; 95 % interval of the perplexity [" in said
    assert " nats to " in said
    assert " times that of " in said
    assert "warning: the perplexity is of" in said + told.err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--window 65", "window is 65"),
        ("--window 16 --stride 17", "--stride 17 is above --window 16"),
        ("--samples 3", "use --tokens, not --samples"),
        ("--max-length 16", "use --window, not --max-length"),
        ("--pack", "--pack goes with"),
        ("--task clm --window 16", "--window goes with --task perplexity"),
    ],
)
def test_what_does_not_go_together_is_refused(room, capsys, more, sentence):
    words = [
        "evaluate",
        str(room / "one"),
        "--task",
        "perplexity",
        "--data",
        f"{room / 'text.txt'}",
    ]
    assert run([*words, *more.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_a_masked_model_is_refused_before_it_is_loaded(room, capsys):
    words = ["evaluate", str(room / "masked"), "--task", "perplexity"]
    assert run(words) == 2
    assert "use --task mlm" in capsys.readouterr().err
