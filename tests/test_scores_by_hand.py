"""Scores and verdicts of small cases, worked out by hand."""

import numpy as np
import pytest
from conftest import pico
from scipy import stats

from tlmtool.failure import Usage
from tlmtool.measuring.bleu import Bleu
from tlmtool.measuring.intervals import paired_interval, said
from tlmtool.measuring.metrics import scored, undefined
from tlmtool.measuring.predictions import task_fits
from tlmtool.tasks.metrics import METRICS, Metric
from tlmtool.tasks.table import TASKS
from tlmtool.training.verdicts import compared


def test_a_score_that_is_not_defined_is_no_number_and_is_told():
    """Of one answer for everything, and of one example: a correlation has no value there."""
    same_for_all, labels = np.ones(6), np.array([1, 0, 1, 1, 0, 1])
    assert scored(("matthews",), same_for_all, labels) == {"score": 0.0, "matthews": 0.0}
    for name in ("pearson", "spearman"):
        found = scored((name,), same_for_all, labels)
        assert np.isnan([found["score"], found[name]]).all()
        [told] = undefined(found, 6, "of a model")
        assert told.startswith(f"{name} of a model is not defined: all its predictions")
        few = scored((name,), np.array([2.0]), np.array([2.0]))
        assert np.isnan(few["score"])
        assert undefined(few, 1, "of a model")[0].endswith("1 example is too few")
        assert not undefined(scored((name,), labels, labels), 6, "of a model")
        assert scored((name,), np.array([2.0, 3.0]), np.array([2.0, 4.0]))[
            "score"
        ] == pytest.approx(1)


def test_a_metric_that_tells_labels_from_predictions(monkeypatch):
    """And one that stands beside the score of a kind of task, but is no part of it."""
    precision = Metric("precision", "of class 1", "sklearn.metrics:precision_score")
    beside = Metric(
        "recall", "of class 1", "sklearn.metrics:recall_score", beside=("classification",)
    )
    monkeypatch.setitem(METRICS, "precision", precision)
    monkeypatch.setitem(METRICS, "recall", beside)
    labels, answers = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1, 0])
    found = scored(("precision", "accuracy"), answers, labels, TASKS["rte"].scored_beside)
    assert found["precision"] == pytest.approx(2 / 3) and found["recall"] == pytest.approx(2 / 4)
    assert found["score"] == pytest.approx((2 / 3 + 3 / 6) / 2)
    assert "recall" not in scored(("precision",), answers, labels, TASKS["stsb"].scored_beside)


def test_a_pair_without_a_p_counts_as_one_more_and_as_the_largest():
    arms = {"a": [0.5, 0.6, 0.7], "b": [0.5, 0.6, 0.7], "c": [0.1, 0.3, 0.2]}
    pairs = {(each["first"], each["second"]): each for each in compared(arms)}
    assert pairs["a", "b"]["p"] is None and pairs["a", "b"]["p_holm"] is None
    alone = pairs["a", "c"]["p"]  # of b and c too: Holm takes the smallest three times
    assert pairs["a", "c"]["p_holm"] == pairs["b", "c"]["p_holm"] == pytest.approx(3 * alone)


def test_what_holds_for_a_pair_alone_is_not_shown_of_several():
    arms = {"a": [0.5, 0.6, 0.7], "b": [0.4, 0.54, 0.6], "c": [0.5, 0.7, 0.6]}
    pair = compared(arms)[0]
    assert pair["p"] <= 0.05 < pair["p_holm"] and pair["verdict"] == "not shown, of 3 pairs"
    (pair,) = compared({"a": arms["a"], "b": arms["b"]})
    assert pair["verdict"] == "differ"


@pytest.mark.parametrize(("seeds", "says"), [(1, "1 seed: too few"), (2, "equal in every seed")])
def test_arms_that_are_equal_in_every_seed_are_called_so(seeds, says):
    (pair,) = compared({"a": [0.5, 0.6][:seeds], "b": [0.5, 0.6][:seeds]})
    assert pair["verdict"].startswith(says)


def test_every_example_is_resampled_as_often_as_is_said():
    n, drawn = 100, []
    values = np.zeros(n)
    values[-1] = 1000.0

    def first(index: np.ndarray) -> np.ndarray:
        drawn.append(len(index))
        return values[index].mean(-1)

    low, high = paired_interval(first, lambda index: np.zeros(len(index)), n)
    assert sum(drawn) == 2000 and low == 0 and 20 <= high <= 50
    assert said(64) == "2,000 paired resamples" and said(63) == "jackknife t, 63 examples"


def test_bleu_tells_capitals_apart_and_several_calls_alike():
    sacrebleu = pytest.importorskip("sacrebleu")
    given, true = ["Die Katze saß hier", "die Hunde"], ["die Katze saß hier", "die Hunde liefen"]
    bleu = Bleu("de")
    found = bleu.statistic(bleu.counts(given, true))(np.array([[0, 1]]))
    assert found.tolist() == pytest.approx([sacrebleu.corpus_bleu(given, [true]).score])


def test_a_head_of_more_classes_than_the_task_has_is_refused():
    model = pico("bert", "classification", num_labels=5)
    with pytest.raises(Usage, match="its head has 5 outputs, the task needs 3"):
        task_fits(TASKS["mnli"], model)


def test_a_t_interval_is_that_of_the_jackknife_also_where_it_is_small():
    draw = np.random.default_rng(0)
    values, weights, n = 1 + 1e-5 * draw.normal(size=20), draw.integers(1, 9, 20), 20

    def ratio(index: np.ndarray) -> np.ndarray:
        return (values * weights)[index].sum(-1) / weights[index].sum(-1)

    left_out = [np.average(np.delete(values, i), weights=np.delete(weights, i)) for i in range(n)]
    half = stats.t.ppf(0.975, n - 1) * np.std(left_out) * (n - 1) ** 0.5
    whole = np.average(values, weights=weights)
    found = paired_interval(ratio, lambda index: np.zeros(len(index)), n)
    assert found == pytest.approx((whole - half, whole + half), rel=1e-12, abs=0)
