"""The layout of a report: what it does not know is an error or shown plainly, never silent."""

import json
import re
from dataclasses import dataclass, fields
from math import isnan, nan
from typing import ClassVar

import pytest
from made_reports import compressed, evaluated, printed, profiled

from tlmtool.recipe.verbs import BESIDE, VERBS
from tlmtool.report import checks
from tlmtool.report.asked import Asked
from tlmtool.report.layout import Part, entry, kinds
from tlmtool.report.parts.parity import Parity
from tlmtool.report.report import Report
from tlmtool.report.views import views


@dataclass(frozen=True, kw_only=True)
class Unseen(Part):
    """A part without a view of its own."""

    key: ClassVar[str] = "unseen"
    verbs: ClassVar = {"merge": ""}

    figures: dict[str, float] = entry("figures by name")
    gone: int | None = entry("absent", optional=True)


def test_a_part_that_no_view_knows_is_shown_plainly():
    report = Report("merge", [Unseen(figures={"a": 1.5, "b": 2.0})])
    (view,) = views(report)
    assert (view.title, view.rows) == ("unseen", [["figures.a", "1.5"], ["figures.b", "2.0"]])
    assert "figures.a" in printed(report) and "| figures.b | 2.0 |" in report.card("x")
    assert report.data["unseen"] == {"figures": {"a": 1.5, "b": 2.0}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lateny": 3}, "has no part 'lateny'"),
        ({"parameters": {"before": 1, "after": 1, "sise": 2}}, "cannot have a field 'sise'"),
        ({"parameters": {"before": 1}}, "has no field 'after'"),
        ({"parameters": {"before": 1, "after": "many"}}, "parameters.after is str, .* int"),
        ({"parameters": {"before": True, "after": 1}}, "parameters.before is "),
        ({"left_dense": [{"site": "a", "reason": None}]}, "left_dense.0.reason is NoneType"),
        ({"parity": {"max_abs": 0, "relative": 0, "tolerance": 0}}, "has no part 'parity'"),
    ],
)
def test_what_the_layout_does_not_know_is_no_report(change, says):
    with pytest.raises(ValueError, match=says):
        compressed(**change)


def test_a_figure_that_is_no_number_is_read_back_as_that():
    written = json.loads(
        Report("merge", [Parity(max_abs=nan, relative=0.0, tolerance=1e-5)]).to_json()
    )
    assert written["parity"]["max_abs"] is None
    assert isnan(Report.read(written).part(Parity).max_abs)


@pytest.mark.parametrize("report", [compressed(), compressed(1), profiled(), evaluated()])
def test_a_report_is_read_back_as_it_was_written(report):
    again = Report.read(json.loads(report.to_json()))
    assert again.parts == report.parts and again.to_json() == report.to_json()


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_part_is_described(kind):
    verbs = {*VERBS, *BESIDE}
    assert kind.verbs and set(kind.verbs) <= verbs and kind.__doc__
    for each in fields(kind):
        assert each.metadata["what"]
    for verb in kind.verbs:
        kind.expected(Asked(verb, {}))
        for path in checks.figures(verb, {}) if verb != "run" else ():
            assert re.fullmatch(r"[\w.#*]+", path)
