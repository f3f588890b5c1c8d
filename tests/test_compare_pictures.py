"""The pictures of `tlm compare`: nothing is left out in silence; what is joined is comparable."""

import json
import re
from itertools import product

import pytest
from test_compare import three, written
from test_page import study, svg_of

from tlmtool.commands.compare import beside, compare
from tlmtool.report.figures import View
from tlmtool.report.latex import latex
from tlmtool.report.naming import shortened
from tlmtool.report.picture import Picture
from tlmtool.report.pictures import _bars
from tlmtool.report.report import Report
from tlmtool.report.views import lines

__all__ = ["three"]  # a fixture
pytest.importorskip("matplotlib")


def pictures(reports) -> dict[str, Picture]:
    return {each.title: each for each in beside(reports).pictures()}


def changed(report: Report, **training) -> Report:
    data = json.loads(report.to_json())
    data["recipe"]["training"] |= training
    return Report.read(data)


def test_trainings_that_differ_in_another_key_have_lines_of_their_own():
    """Previously the one that was read last stood for both."""
    reports = {
        f"s/{lr}-{batch}": changed(study(lr=lr), batch=batch)
        for lr, batch in product((1e-4, 1e-3), (8, 32))
    }
    text = svg_of(pictures(reports)["accuracy against rate"])
    for line in ("mpo-dynamic, batch 8", "mpo-dynamic, batch 32", "dense, batch 8"):
        assert f">{line}<" in text


def test_a_training_of_another_growth_at_one_rate_is_a_point():
    reports = {f"s/{lr}": study(lr=lr) for lr in (1e-4, 1e-3)}
    reports["s/alone"] = study(lr=1e-2, growth=6.0)
    text = svg_of(pictures(reports)["accuracy against rate"])
    assert ">mpo-dynamic, growth 2<" in text and ">mpo-dynamic, growth 6<" in text


def test_what_may_not_be_compared_shares_no_front(three):
    """Of other examples, and of another model; the caption says what is left out."""
    found = {each.title: each for each in compare(three).pictures()}
    titles = [title for title in found if title.startswith("loss against size")]
    assert titles == ["loss against size (1 of 2)", "loss against size (2 of 2)"]
    assert "another model: minilm, dense, on the text of c; c." in found[titles[0]].caption
    spots = [found[title].draw.keywords["spots"] for title in titles]
    assert [{spot.name for spot in each} for each in spots] == [
        {"minilm, dense", "a", "b"},
        {"minilm, dense, on the text of c", "c"},
    ]


def test_losses_of_other_models_share_no_front_and_scores_do(tmp_path):
    for name in "ab":
        folder = written(tmp_path / name, 3.2 if name == "a" else 3.4)
        data = json.loads((folder / "report.json").read_text())
        data["model"] |= {"id": name, "base_model": name, "sha256": {"w": name}}
        data["evaluations"] = [later(0.8 if name == "a" else 0.7)]
        (folder / "report.json").write_text(json.dumps(data))
    found = {each.title: each for each in compare([tmp_path]).pictures()}
    for place, name in ((1, "a"), (2, "b")):
        spots = found[f"loss against size ({place} of 2)"].draw.keywords["spots"]
        assert {spot.name for spot in spots} == {f"{name}, dense", name}
    spots = found["similarity spearman against size"].draw.keywords["spots"]
    assert {spot.name for spot in spots} == {"a", "b"}


def later(score: float) -> dict:
    """What `tlm evaluate --out` adds to a report."""
    model = {"id": "x", "score": score, "n": 9, "examples": {"sha256": "c" * 64, "left_out": []}}
    found = {"task": "similarity", "data": "x.csv", "metric": "spearman", "better": "higher"}
    found |= {"what": "Spearman of x", "model": model, "facts": {}, "warnings": [], "seed": 0}
    return found | {"versions": {}, "recipe": {}}


def test_an_axis_of_latency_has_units_that_are_read():
    text = svg_of(Picture("t", "", lambda axes: _bars(axes, [("a", 0.012), ("b", 0.0004)], "s")))
    assert re.search(r"\d ms<", text) and "mms" not in text


@pytest.mark.parametrize("most", [16, 24])
@pytest.mark.parametrize(
    "names",
    [
        [f"training.lr=0.00{i},strategy.N=4,seed=0/tune" for i in range(4)],
        [f"{i} is a name whose beginning alone differs in all of its letters" for i in range(4)],
        [f"a name that is long and whose middle, {i}, alone differs from those" for i in range(4)],
        ["a" * 30 + "b" + "c" * 60, "a" * 60 + "b" + "c" * 30, "a" * 50 + "c" * 50],
        [f"{'x' * 60}{i}{'x' * 60}{j}{'y' * 60}" for i, j in product("12", "12")],
        ["short", "also short"],
    ],
)
def test_long_names_are_told_apart_in_few_letters(names, most):
    found = shortened([*names, names[0]], most)
    assert len({*found}) == len(names) and found[-1] == found[0]
    assert all(len(each) <= most for each in found)
    view = View("", ["", "value"], [[name, "1"] for name in names])
    assert len({line.split("  ")[0] for line in lines(view, 30)[1:]}) == len(names)


def test_latex_prints_every_letter():
    letters = "a~b^c\\d{e}_%$#&<>|"
    cell = latex(View("t", ["", "v"], [["[x]" + letters, "1"]])).split("\n")[-2]
    told = r"{[}x]a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d\{e\}\_\%\$\#\&"
    assert cell == told + r"\textless{}\textgreater{}\textbar{} & 1 \\"
