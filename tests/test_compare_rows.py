"""`tlm compare`: which results share a row, how models before are called, what is the baseline."""

import json
import os
from pathlib import Path

import pytest
from front_door import saved, tlm
from made_reports import profiled
from test_compare import quality, sums, three, written
from test_compare_odd import scored

from tlmtool.cli import run
from tlmtool.commands.compare import compare
from tlmtool.report.cells import Cell
from tlmtool.report.joining import gathered
from tlmtool.report.parts.front import Front, Point
from tlmtool.report.parts.model import Model
from tlmtool.report.pieces import Examples
from tlmtool.report.report import Report
from tlmtool.report.rows import Row

__all__ = ["three"]  # a fixture

SCORE = "similarity.spearman"
BITS = {"bits": 8, "embedding_bits": 8, "rounded": 9, "left": 1, "stored_bytes": 30, "plain": True}


def names(*folders, **more) -> list[str]:
    return [row.name for row in compare(folders, **more).table.rows]


def of_weights(file: Path, model: str, **more) -> Path:
    """Change `model` of the report in a folder, which was read as `id` with these weights."""
    data = json.loads((file / "report.json").read_text())
    data["model"] |= {"id": model, **more}
    (file / "report.json").write_text(json.dumps(data))
    return file


def test_what_lies_at_the_path_of_a_measurement_today_takes_no_figure_of_another(three, tmp_path):
    """The weights that were measured lie elsewhere now, or nowhere."""
    a, b, _ = three
    file = scored(tmp_path / "e.json", b, 0.8, asked=a)
    rows = {row.name: row.cells for row in compare([*three, file]).table.rows}
    assert SCORE in rows["b"] and SCORE not in rows["a"] and "e.json" not in rows
    unknown = scored(tmp_path / "f.json", tmp_path / "gone", 0.8, asked=a)
    rows = {row.name: row.cells for row in compare([*three, unknown]).table.rows}
    assert SCORE in rows["f.json"] and SCORE not in rows["a"]


@pytest.mark.parametrize(("length", "there"), [(128, False), (64, True)])
def test_equal_figures_of_other_settings_keep_their_rows(three, tmp_path, length, there):
    common = {"warnings": [], "seconds": {}, "seed": 0, "versions": {}}
    for name, each in (("one", 128), ("two", length)):
        recipe = {"verb": "evaluate", "evaluation": {"max_length": each}}
        recipe["output"] = {"json": name == "one"}  # which does not change a score
        scored(tmp_path / f"{name}.json", three[0], 0.8, recipe=recipe, **common)
    found = names(*three, tmp_path / "one.json", tmp_path / "two.json")
    assert found == ["a", "b", "c", *(["two.json: a"] if there else [])]


def test_a_score_that_the_baseline_lacks_is_compared_with_the_first_that_has_it(three, tmp_path):
    first = scored(tmp_path / "first.json", tmp_path / "x", 0.5, asked=three[0])
    second = scored(tmp_path / "second.json", tmp_path / "y", 0.8, asked=three[0])
    found = compare([three[0], first, second], baseline=three[0]).table
    assert found.first(SCORE).name == "first.json" and found.first("loss").name == "a"
    compared = [row.name for row in found.rows if found.difference(row, SCORE).why]
    assert compared == ["second.json"]  # these reports have no marks, and that is told


@pytest.mark.parametrize(("value", "there"), [(0.5, ["a"]), (0.6, ["a", "e: a"])])
def test_a_figure_without_a_mark_takes_that_of_its_measurement(value, there):
    """As the score of a training and that of `tlm evaluate` on the same data."""
    marked = Cell(value, examples=Examples(sha256="f" * 64, left_out=()))
    home = Row("a", {SCORE: Cell(0.5)}, verb="finetune", weights=frozenset("w"))
    measured = Row("e", {SCORE: marked}, verb="evaluate", weights=frozenset("w"))
    found = gathered([], [home, measured])[1]
    assert [row.name for row in found] == there
    assert (found[0].cells[SCORE] == marked) is (len(there) == 1)


def test_the_dense_model_has_a_row_for_each_text_that_it_was_measured_on(three):
    other = json.loads((three[2] / "report.json").read_text())
    other["quality"]["before"] = 2.5
    (three[2] / "report.json").write_text(json.dumps(other))
    known = {row.name: row.cells["loss"] for row in compare(three).table.known}
    assert {name: cell.value for name, cell in known.items()} == {
        "minilm, dense": 3.0,
        "minilm, dense, on the text of c": 2.5,
    }
    assert len({cell.mark for cell in known.values()}) == 2


def test_two_models_of_one_name_are_two_models(three):
    of_weights(three[1], "minilm", sha256={"model.safetensors": "other"})
    known = [row.name for row in compare(three[:2]).table.known]
    assert known == ["minilm, dense", "minilm, dense, which b was made from"]


@pytest.mark.parametrize("there", [True, False])
def test_the_source_of_a_quantized_model_is_no_dense_one(three, tmp_path, there):
    """It is the row of that result; alone it is a model before."""
    small, again = three[0], written(tmp_path / "q", 3.25)
    data = json.loads((again / "report.json").read_text())
    for part in ("calibration", "sites", "left_dense"):
        del data[part]
    data |= {"verb": "quantize", "quality": quality(3.25, []) | {"before": 3.2}}
    data["model"] |= {"id": "somewhere/a", "type": "tlm-bert", "sha256": sums(small)}
    (again / "report.json").write_text(json.dumps(data))
    table = compare([small, again] if there else [again]).table
    known = [row.name for row in table.known]
    assert known == (["minilm, dense"] if there else ["somewhere/a, before"])
    assert not any(row.dense for row in table.rows)


@pytest.mark.parametrize(("sha", "after", "there"), [("a", 3.1, 0), ("b", 3.1, 1), ("b", 3.01, 0)])
def test_a_rounded_model_that_is_a_result_stands_once_for_a_text(tmp_path, sha, after, there):
    int8 = {"file_bytes": 30_000_000, "bits_per_weight": 8.5, "value": 3.01}
    small, again = written(tmp_path / "a", int8=int8), tmp_path / "q"
    data = json.loads((written(again, after, sha=sha * 64) / "report.json").read_text())
    for part in ("calibration", "sites", "left_dense"):
        del data[part]
    (again / "report.json").write_text(
        json.dumps(data | {"verb": "quantize", "quantization": BITS})
    )
    known = [row.label for row in compare([small, again]).table.known]
    assert known.count("int8") == there


def test_predictions_are_marked_and_spend_nothing(three, tmp_path):
    data = json.loads((three[0] / "report.json").read_text())
    del data["quality"], data["file_bytes"]
    (tmp_path / "dry.json").write_text(json.dumps(data | {"predicted": True}))
    table = compare([three[1], tmp_path / "dry.json"]).table
    row = table.rows[-1]
    assert row.name == "dry.json, predicted"
    assert "parameters" in row.cells and not {"seconds", "memory"} & row.cells.keys()
    assert (
        compare([*three, tmp_path / "dry.json"], baseline="dry.json").table.baseline.name
        == row.name
    )


@pytest.fixture
def front(three, tmp_path) -> Path:
    """The report of two budgets whose folders are `a` and `b`, as `--json` prints it."""
    ends = {"parameters": 9, "bytes": 90, "quality": 2.0}
    small = {"parameters": 5, "bytes": 50, "quality": 3.0}
    points = [Point(budget="dense", **ends), Point(budget="dense, int8", **ends | {"bytes": 30})]
    points += [Point(budget=f"keep 0.{i}", out=f"{i}/{i}", **small) for i in "ab"]
    parts = [Model(id="minilm", base_model="all"), Front(points=tuple(points), quality="loss")]
    (tmp_path / "front.json").write_text(Report("compress", parts).to_json())
    return tmp_path / "front.json"


def test_the_printed_report_of_several_budgets_has_a_row_for_each(front, capsys):
    table = compare([front]).table
    assert [row.name for row in table.rows] == ["front.json: keep 0.a", "front.json: keep 0.b"]
    assert [row.name for row in table.known] == ["minilm, dense", "minilm, int8"]
    assert table.difference(table.rows[1], "loss").value == 0.0
    if compare([front]).pictures():
        assert "loss against size" in [each.title for each in compare([front]).pictures()]


def test_a_budget_whose_own_report_is_there_stands_once(three, front, tmp_path):
    front.rename(tmp_path / "report.json")
    assert names(tmp_path) == ["a", "b", "c"]
    (three[1] / "report.json").unlink()
    assert [name[-2:] for name in names(tmp_path)] == [".b", "/a", "/c"]


def test_a_baseline_is_a_row_before_it_is_a_folder(three, tmp_path, monkeypatch, capsys):
    """A folder of that name in the working directory is another, or holds nothing."""
    (tmp_path / "x" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x")
    assert compare(three, baseline="b").table.baseline.name == "b"
    written(tmp_path / "x" / "c", 3.9)
    assert names(*three, baseline="c") == ["a", "b", "c"]
    written(tmp_path / "x" / "d", 3.9)
    found = compare(three, baseline="d").table
    assert found.baseline.name == "x/d" and found.rows[0] is found.baseline
    link = tmp_path / "latest"
    link.symlink_to(three[1])
    assert compare(three, baseline=link).table.baseline.name == "b"
    assert run(["compare", *map(str, three), "--baseline", "none"]) == 2
    assert "--baseline none is none of the results: a, b, c" in capsys.readouterr().err


def test_a_link_to_the_folder_above_is_no_other_result(three, tmp_path):
    (tmp_path / "report.json").write_text((three[0] / "report.json").read_text())
    os.symlink(tmp_path, three[0] / "again")
    os.symlink(three[1], tmp_path / "z")
    assert len(names(tmp_path)) == 4
    assert names(three[0], three[0], tmp_path / "z") == names(three[0], three[1])


def test_the_first_result_is_no_baseline_where_it_can_be_compared_with_none(three, tmp_path):
    alone = scored(tmp_path / "0.json", tmp_path / "other", 0.8)
    table = compare([alone, *three]).table
    assert table.baseline.name == "a" and table.difference(table.rows[2], "loss").value


def test_latency_at_another_length_has_no_ratio(tmp_path):
    for name, length in (("a", 128), ("b", 64), ("c", 128)):
        data = json.loads(profiled().to_json())
        data["models"] = data["models"][:1]
        data["models"][0]["runs"] = data["models"][0]["runs"][:1]
        data["models"][0]["runs"][0]["seq_len"] = length
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    view = compare([tmp_path / f"{name}.json" for name in "abc"]).views[1]
    assert [row[2] for row in view.rows] == ["1.000", "", "1.000"]
    assert "latency of b.json: a forward pass of 1 x 64 tokens" in view.note


def test_a_measurement_in_the_row_of_its_model_can_be_the_baseline(three, tmp_path):
    file = scored(tmp_path / "e.json", three[1], 0.8, asked=three[1])
    assert compare([*three, file], baseline=file).table.baseline.name == "b"
    assert compare([*three, file], baseline="e.json").table.baseline.name == "b"


def test_a_measurement_of_equal_weights_under_other_settings_keeps_its_row():
    """As of two kernels of attention without weights of their own: one report tells which."""
    same = {"verb": "compress", "weights": frozenset("w")}
    homes = [Row(name, {}, compressed_with(name), **same) for name in ("cosine", "softmax")]
    measured = Row("e", {SCORE: Cell(0.5)}, verb="evaluate", weights=frozenset("w"))
    assert gathered([], [*homes, measured])[1] == [*homes, measured]
    assert [row.name for row in gathered([], [*homes[:1], measured])[1]] == ["cosine"]


def compressed_with(f: str) -> Report:
    common = {"warnings": [], "seconds": {}, "seed": 0, "versions": {}}
    return Report.read({"schema_version": 1, "verb": "compress"} | common | {"recipe": {"f": f}})


def test_equal_weights_of_another_config_are_another_model(tmp_path, capsys):
    """Two kernels of attention that only config.json tells apart."""
    saved(tmp_path / "bert", "bert", "base")
    made = ["compress", tmp_path / "bert", "--attention", "dimensionwise", "--calibration", "none"]
    assert tlm(*made, "--out", tmp_path / "a", "-q") == 0
    assert tlm(*made, "--f", "softmax", "--out", tmp_path / "c", "-q") == 0
    (tmp_path / "t.txt").write_text("the cat sat\non the mat\n")
    words = ["--task", "features", "--data", tmp_path / "t.txt", "--against", tmp_path / "bert"]
    assert capsys.readouterr() and tlm("evaluate", tmp_path / "c", *words, "--json", "-q") == 0
    (tmp_path / "c.json").write_text(capsys.readouterr().out)
    assert names(tmp_path / "a", tmp_path / "c.json") == ["a", "c.json"]
    assert names(tmp_path / "a", tmp_path / "c", tmp_path / "c.json") == ["a", "c"]
