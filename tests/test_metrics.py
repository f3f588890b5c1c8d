"""Metrics by hand, and degenerate predictions."""

from dataclasses import replace

import numpy as np
import pytest

from tlmtool.cli import run
from tlmtool.failure import Failure
from tlmtool.measuring.metrics import scored, statistic
from tlmtool.tasks.metrics import METRICS
from tlmtool.tasks.table import TASKS

LABELS, SAID = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 1, 0, 0, 1, 1])


def test_by_hand():
    tp, tn, fp, fn = 3, 1, 1, 1
    mcc = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    found = scored(("matthews",), SAID, LABELS)
    assert found["score"] == found["matthews"] == pytest.approx(mcc)
    both = scored(("accuracy", "f1"), SAID, LABELS)
    assert both["accuracy"] == pytest.approx(4 / 6) and both["f1"] == pytest.approx(6 / 8)
    assert both["score"] == pytest.approx((4 / 6 + 6 / 8) / 2)


def test_correlations():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    found = scored(("pearson", "spearman"), x**3, x)
    assert found["spearman"] == pytest.approx(1) and 0.9 < found["pearson"] < 1


@pytest.mark.parametrize("name", [each.name for each in METRICS.values() if each.function])
def test_one_answer_for_everything_is_scored_or_not_defined(name):
    found = scored((name,), np.ones(6, int), LABELS)["score"]
    assert np.isnan(found) if name in ("pearson", "spearman") else 0 <= found <= 1


def test_f1_is_of_class_1_as_glue_has_it():
    assert scored(("f1",), 1 - SAID, 1 - LABELS)["f1"] == pytest.approx(0.5)


def test_resampled_scores_are_those_of_the_examples_drawn():
    score, index = statistic(("matthews",), SAID, LABELS), np.array([[0, 2, 3, 4], [0, 1, 3, 3]])
    expected = [scored(("matthews",), SAID[i], LABELS[i])["score"] for i in index]
    assert score(index).tolist() == expected


def test_every_metric_of_a_task_is_known_and_described():
    assert {name for task in TASKS.values() for name in task.metrics} <= set(METRICS)
    assert TASKS["mrpc"].what.startswith("the mean of share") and TASKS["rte"].what


def test_a_task_with_a_metric_that_has_no_row_is_a_sentence(monkeypatch, capsys):
    row = replace(TASKS["rte"], metrics=("acuracy",))
    monkeypatch.setitem(TASKS, "rte", row)
    assert run(["evaluate", "no/model", "--task", "rte", "--fail-if", "score>1"]) == 1
    assert "tlm: metric acuracy has no row in tlmtool/tasks/metrics.py" in capsys.readouterr().err
    with pytest.raises(Failure, match="no row"):
        scored(row.metrics, SAID, LABELS)
