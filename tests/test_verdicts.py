"""Verdicts of studies: Holm's correction over all pairs, by hand and by simulated studies."""

import re

import numpy as np
import pytest
from scipy import stats

from tlmtool.report.building import built
from tlmtool.report.layout import Document
from tlmtool.report.parts.study import Study
from tlmtool.report.views import views
from tlmtool.training import verdicts

ARMS = ("a", "b", "c", "d", "e", "f")


def studies(count: int, seeds: int, effect: float = 0.0) -> np.ndarray:
    """Scores (S, arms, seeds) of arms that share the luck of a seed; the first is ahead by
    `effect`."""
    draw = np.random.default_rng(0)
    scores = draw.normal(0.8, 0.02, (count, len(ARMS), seeds)) + draw.normal(size=(count, 1, seeds))
    scores[:, 0] += effect
    return scores


def judged(scores: np.ndarray) -> list[dict]:
    return verdicts.compared({arm: row.tolist() for arm, row in zip(ARMS, scores, strict=False)})


def test_holm_by_hand():
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 -> 0.02, 0.03, 0.06, 0.06 (never falling)
    found = verdicts.holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert verdicts.holm([0.9, 0.7]) == [1.0, 1.0] and verdicts.holm([0.2]) == [0.2]
    assert verdicts.holm([]) == []


def test_of_six_equal_arms_some_pair_differs_in_few_studies():
    count, wrong, alone = 2000, 0, 0
    for scores in studies(count, 5):
        pairs = judged(scores)
        wrong += any(pair["verdict"] == "differ" for pair in pairs)
        alone += any(pair["p"] <= 0.05 for pair in pairs)
    most = stats.binom.ppf(0.999, count, 1 - verdicts.LEVEL)
    assert wrong <= most < alone  # without the correction far too many


def test_what_differs_is_found():
    for scores in studies(20, 5, effect=0.5):
        said = {(p["first"], p["second"]): p["verdict"] for p in judged(scores)}
        assert all((verdict == "differ") == ("a" in pair) for pair, verdict in said.items())


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_pairs_are_those_of_a_t_test(seeds):
    scores = studies(1, seeds)[0]
    for pair in judged(scores):
        first, second = (scores[ARMS.index(pair[key])] for key in ("first", "second"))
        known = stats.ttest_rel(first, second)
        low, high = known.confidence_interval(0.95)
        assert pair["interval"] == pytest.approx([low, high])
        assert pair["p"] == pytest.approx(known.pvalue)
        assert pair["p"] <= pair["p_holm"] <= 1
    (only,) = judged(scores[:2])
    assert only["p_holm"] == only["p"]  # of one pair


@pytest.mark.parametrize("seeds", range(1, 9))
def test_an_interval_that_holds_zero_is_no_finding(seeds):
    for scores in studies(30, seeds):
        for pair in judged(scores):
            low, high = pair["interval"] or (0, 0)
            assert not re.search("trend|tend|suggest", pair["verdict"])
            assert pair["verdict"] != "differ" or not low <= 0 <= high
            few = f"{seeds} seed{'s' * (seeds > 1)}: too few to tell"
            if low <= 0 <= high:
                assert pair["verdict"] == (few if seeds < 5 else "no difference shown")


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], "equal in every seed: no spread to judge by"),
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], "the same in every seed: no spread to judge by"),
        ([0.5], [0.4], "1 seed: too few to tell"),
    ],
)
def test_without_spread_nothing_is_called_different(first, second, says):
    (pair,) = verdicts.compared({"a": first, "b": second})
    assert (pair["p"], pair["p_holm"], pair["interval"], pair["verdict"]) == (
        None,
        None,
        None,
        says,
    )


def test_the_report_says_what_its_intervals_and_verdicts_are():
    scores = {arm: row.tolist() for arm, row in zip(ARMS, studies(1, 5)[0], strict=True)}
    result = {"metric": "matthews", "better": "higher", "steps": 9, "score": 0.5, "lr": 1e-3}
    result |= {"of": "x", "warnings": []}
    arms = [{"arm": arm, **verdicts.spread(each)} for arm, each in scores.items()]
    study = {"arms": arms, "pairs": verdicts.compared(scores), "results": [result], "lr": 1e-3}
    report = Document("finetune", [built(Study, study | {"rates": []})])
    table = next(view for view in views(report) if view.title == "differences")
    assert len(table.rows) == 15 and "p (Holm)" in table.header
    assert "Holm's correction over 15 pairs" in table.note
    assert "95 % for that pair alone" in table.note
