"""Paired intervals hold the true difference as often as they say, also of few examples."""

import numpy as np
import pytest
from conftest import WORDS, pico, sentences, word_tokenizer
from scipy import stats

from tlmtool.failure import Failure
from tlmtool.measuring import intervals
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.intervals import FEW, paired_interval
from tlmtool.measuring.metrics import statistic

TIMES = 600
LEAST = stats.binom.ppf(0.001, TIMES, intervals.LEVEL) / TIMES  # of an interval that is right


def none(index: np.ndarray) -> np.ndarray:
    return np.zeros(len(index))


def mean(n: int, draw: np.random.Generator) -> tuple:
    """(both statistics, the true difference): of losses that share what is hard."""
    hard, own = draw.gamma(4, 0.25, n), draw.normal(0.1, 0.3, n)
    return lambda i: (hard + own)[i].mean(-1), lambda i: hard[i].mean(-1), 0.1


def per_token(n: int, draw: np.random.Generator) -> tuple:
    """A loss of texts of many lengths: a ratio of sums."""
    counts, nll, own = draw.integers(5, 60, n), draw.gamma(4, 0.7, n), draw.normal(0.1, 0.3, n)
    sums = [counts * nll + counts * own, counts * nll]
    first, second = (lambda i, s=s: s[i].sum(-1) / counts[i].sum(-1) for s in sums)
    return first, second, 0.1


def ranks(n: int, draw: np.random.Generator) -> tuple:
    """Spearman of two models that share half of their errors."""
    true, both = draw.normal(size=(2, n))
    found, rank = [], lambda x, i: stats.rankdata(x[i], axis=-1)
    for r in (0.5, 0.3):
        noise = 0.7 * both + 0.51**0.5 * draw.normal(size=n)
        said = r * true + (1 - r**2) ** 0.5 * noise

        def spearman(i, said=said):
            a, b = (rank(x, i) - (i.shape[-1] + 1) / 2 for x in (said, true))
            return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

        found.append(spearman)
    of = [6 / np.pi * np.arcsin(r / 2) for r in (0.5, 0.3)]
    return *found, of[0] - of[1]


def right(n: int, draw: np.random.Generator, share: tuple = (0.9, 0.9)) -> tuple:
    """Accuracy of two good models, by itself: with the examples that evaluation adds."""
    labels = draw.integers(0, 2, n)
    answers = [np.where(draw.random(n) < s, labels, 1 - labels) for s in share]
    labels, answers, _ = intervals.with_added(labels, answers)
    first, second = (lambda i, a=a: (a[i] == labels[i]).mean(-1) for a in answers)
    return first, second, share[0] - share[1]


@pytest.mark.parametrize("n", [10, 20, 40])
@pytest.mark.parametrize("case", [mean, per_token, ranks, right])
def test_a_95_percent_interval_of_few_holds_the_truth_in_95_percent(case, n):
    draw, held = np.random.default_rng(n), 0
    for _ in range(TIMES):
        first, second, truth = case(n, draw)
        low, high = paired_interval(first, second, n, added=2 if case is right else 0)
        held += low <= truth <= high
    assert held / TIMES >= LEAST


def test_of_a_mean_it_is_the_paired_t_interval():
    draw = np.random.default_rng(0)
    for n in (2, 3, 17, FEW - 1):
        a, b = draw.normal(size=(2, n))
        found = paired_interval(lambda i, a=a: a[i].mean(-1), lambda i, b=b: b[i].mean(-1), n)
        assert found == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(0.95)))


def test_of_many_it_is_that_of_seeded_resamples_with_the_width_of_theory():
    n = 400
    values = np.random.default_rng(0).normal(1.0, 2.0, n)
    low, high = paired_interval(lambda i: values[i].mean(-1), none, n)
    assert (low, high) == paired_interval(lambda i: values[i].mean(-1), none, n)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / n**0.5, rel=0.1)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.05)
    assert (low, high) != paired_interval(lambda i: values[i].mean(-1), none, n, seed=1)


def test_two_answers_that_agree_are_not_known_to_be_equal_ever_after():
    labels = np.array([0, 1] * 5)
    more, answers, added = intervals.with_added(labels, [labels, labels])
    first, second = (statistic(("accuracy",), each, more) for each in answers)
    low, high = paired_interval(first, second, 10, added=added)
    assert low == pytest.approx(-high) and 0.1 < high < 0.5
    assert first(np.arange(10)[None]) == second(np.arange(10)[None]) == 1  # scores as they were


def test_what_has_no_interval_is_a_sentence():
    with pytest.raises(Failure, match="of 1 example: two are needed"):
        paired_interval(none, none, 1)
    with pytest.raises(Failure, match="is degenerate"):
        paired_interval(lambda i: np.full(len(i), np.nan), none, 9)


@pytest.mark.parametrize(("n", "says"), [(1, "one example"), (9, "jackknife t, 9 examples")])
def test_the_report_says_which_interval_it_is(n, says):
    models = [pico("gpt2", "lm", seed) for seed in (0, 1)]
    line = evaluate("clm", models[0], word_tokenizer(), sentences(n), baseline=models[1])[
        "baseline"
    ]
    assert says in line["method"] and "resamples" not in line
    if n == 1:
        assert line["interval"] is None
    else:
        assert line["interval"][0] < line["difference"] < line["interval"][1]


def test_a_labelled_task_of_few_examples_is_never_certain(tmp_path):
    (tmp_path / "dev.csv").write_text(
        "sentence,label\n" + "".join(f"{WORDS[i % 9]},{i % 2}\n" for i in range(12))
    )
    models = [pico("bert", "classification", 0) for _ in range(2)]
    given = ("cola", models[0], word_tokenizer(), tmp_path / "dev.csv")
    line = evaluate(*given, baseline=models[1])["baseline"]
    assert line["difference"] == 0 and line["interval"][0] < 0 < line["interval"][1]
    assert line["method"] == "jackknife t, 12 examples and 2 added"


@pytest.mark.parametrize(
    ("task", "n"),
    [(task, n) for task in ("stsb", "regression", "similarity") for n in (2, 3, 4)] + [("stsb", 1)],
)
def test_a_correlation_of_few_examples_keeps_its_score(task, n, tmp_path):
    texts, columns = sentences(2 * n), None
    rows = [f"{texts[k]}\t{texts[k + n]}\t{k}" for k in range(n)]
    names = "sentence1\tsentence2\tscore"
    if task == "regression":
        columns = {"text": "sentence1", "pair": "sentence2", "label": "score"}
    (tmp_path / "d.tsv").write_text("\n".join([names, *rows]) + "\n")
    head = {} if task == "similarity" else {"head": "classification", "num_labels": 1}
    models = [pico("bert", **head, seed=seed) for seed in (0, 1)]
    given = (task, models[0], word_tokenizer(), tmp_path / "d.tsv")
    line = evaluate(*given, baseline=models[1], columns=columns)["baseline"]
    undefined = n == 1  # one pair has no correlation
    assert np.isnan(line["score"]) if undefined else -1 <= line["score"] <= 1
    assert "resamples" not in line
    if n < 4:
        assert line["interval"] is None
        assert ("one example" if n == 1 else "needs 4 examples") in line["method"]
    else:
        assert line["interval"][0] < line["difference"] < line["interval"][1]


def test_a_spread_of_nothing_gives_no_interval():
    with pytest.raises(Failure, match="leaving out any of 5 examples changes nothing"):
        paired_interval(lambda i: np.full(len(i), 0.3), none, 5)
    assert paired_interval(none, none, 5) == (0, 0)
    models = [pico("gpt2", "lm", seed) for seed in (0, 1)]
    texts = ["the cat sat"] * 3
    line = evaluate("clm", models[0], word_tokenizer(), texts, baseline=models[1])["baseline"]
    assert line["difference"] and line["interval"] is None
    assert line["method"].startswith("none: leaving out any of 3 examples")
