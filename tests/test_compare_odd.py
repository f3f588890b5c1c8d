"""`tlm compare` beside what is odd: measured twice, not finite, of other data, with odd names."""

import json
from pathlib import Path

import pytest
from made_reports import evaluated
from test_compare import sums, three, written
from test_page import study

from tlmtool.cli import run
from tlmtool.commands.compare import beside, compare
from tlmtool.commands.tabling import difference
from tlmtool.report.parts.points import Points
from tlmtool.report.picture import LONGEST, Picture, svg
from tlmtool.report.report import Report
from tlmtool.report.spots import Spot, front_of

__all__ = ["three"]  # a fixture


def scored(file: Path, model: Path, score: float, asked: Path | None = None, **more) -> Path:
    """An evaluation of a model."""
    data = json.loads(evaluated().to_json())
    data |= {"model": {"id": str(asked or model)}, "baseline": None} | more
    scores = {"score": score, "spearman": score, "sums": sums(model)}
    data["models"] = [data["models"][0] | scores]
    file.write_text(json.dumps(data))
    return file


def test_what_was_measured_twice_keeps_its_rows(three, tmp_path):
    """Evaluations with other settings: none of the two scores is dropped."""
    first = scored(tmp_path / "one.json", three[0], 0.8)
    second = scored(tmp_path / "two.json", three[0], 0.7)
    rows = {row.name: row for row in compare([*three, first, second]).table.rows}
    found = {n: r.cells["similarity.spearman"].value for n, r in rows.items() if len(r.cells) == 1}
    whole = rows["a"].cells["similarity.spearman"].value
    assert whole == 0.8 and [*found.values()] == [0.7]


def test_studies_of_other_data_with_one_name_are_not_compared():
    one, other = study().data, study().data
    one["recipe"]["training"] |= {"data": "/data/here/cola"}
    other["recipe"]["training"] |= {"data": "/data/elsewhere/cola"}
    first, second = (
        next(iter(beside({"a": report}).table.rows[0].cells.values()))
        for report in map(Report.read, (one, other))
    )
    assert first.data == second.data and difference(first, first).value == 0.0
    found = difference(second, first)
    assert found.value is None and found.why == "other data or seeds than the baseline"


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_a_loss_that_is_not_finite_has_no_difference(kind, tmp_path, capsys):
    good, bad = written(tmp_path / "a"), written(tmp_path / "b")
    file = bad / "report.json"
    data = json.loads(file.read_text())
    data["quality"] |= {"after": float("nan")}
    file.write_text(json.dumps(data))
    assert run(["compare", str(good), str(bad), "--format", kind]) == 0
    assert "nan" not in capsys.readouterr().out.lower()


def test_a_broken_model_is_on_no_front():
    spots = [Spot(50, float("nan"), "broken", False), Spot(60, 3.0, "good", False)]
    spots.append(Spot(90, 2.0, "dense", True))
    assert [spot.name for spot in front_of(spots, "lower")] == ["good", "dense"]


def test_names_may_hold_what_is_no_formula_and_be_long():
    pytest.importorskip("matplotlib")
    picture = Picture("a$x^$ " * 40, "", lambda axes: axes.plot([1, 2], [1, 2], label="b$^$"))
    assert "x^" in svg(picture) and len(picture.name) == LONGEST
    other = Picture(picture.title + "b", "", picture.draw)
    assert other.name != picture.name and Picture("Loss, by rate", "", print).name == "loss-by-rate"


def test_a_baseline_may_be_a_folder_of_results(three, tmp_path):
    (tmp_path / "report.json").write_text(Report("run", [Points(points=())]).to_json())
    assert compare([tmp_path], baseline=tmp_path).table.baseline.name.endswith("a")
