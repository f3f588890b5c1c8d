"""`tlm compare`: those that differ in their seed alone are one row; kernels alone have rows too."""

import json
import shutil

import pytest
from test_compare import three
from test_compare_pictures import svg_of

from tlmtool.cli import run
from tlmtool.commands.compare import compare

__all__ = ["three"]  # a fixture


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two rates of a tiny model with random weights, each with two seeds, and attention alone."""
    folder = tmp_path_factory.mktemp("seeds")
    (data := folder / "data").mkdir()
    for name in ("train", "valid"):
        lines = "\n".join(f"the cat number {n} sat on the mat" for n in range(60))
        (data / f"{name}.txt").write_text(f"{lines}\n")
    tree = {
        "verb": "finetune",
        "fresh": {"from_config": "bert", "tokens": "word"},
        "config": {
            "num_hidden_layers": 1,
            "hidden_size": 8,
            "num_attention_heads": 2,
            "intermediate_size": 8,
        },
        "training": {"task": "mlm", "data": str(data), "steps": 4, "batch": 4, "max_length": 8}
        | {"evaluate_every": 1},
        "matrix": {"training.lr": [1e-3, 1e-2], "seed": [0, 1]},
    }
    (folder / "f.yaml").write_text(json.dumps(tree))
    assert run(["run", str(folder / "f.yaml"), "--out", str(folder / "out"), "-q"]) == 0
    return folder / "out"


def test_seeds_are_one_row_with_an_interval_over_them(sweep):
    found = compare([sweep])
    names = ["lr=0.001, 2 seeds", "lr=0.01, 2 seeds"]
    assert [row.name for row in found.table.rows] == names
    cell = found.table.rows[1].cells["mlm.loss"]
    reports = [json.loads((sweep / f"lr=0.01,seed={s}/report.json").read_text()) for s in (0, 1)]
    assert cell.seeds == {s: each["scores"]["after"]["score"] for s, each in enumerate(reports)}
    assert cell.value == sum(cell.seeds.values()) / 2
    assert found.table.difference(found.table.rows[1], "mlm.loss").interval is not None
    assert found.page("x").count("<details") >= 4  # each result is told


def test_pictures_of_seeds_are_of_their_means(sweep):
    found = {picture.title: picture for picture in compare([sweep]).pictures()}
    assert "mlm loss of each arm" in found
    text = svg_of(found["loss on the way"])
    assert "lr=0.01, 2 seeds" in text and "seed=0" not in text
    assert "Of several seeds it is the mean." in found["loss on the way"].caption


def test_one_seed_can_be_the_baseline(sweep):
    base = compare([sweep], baseline=sweep / "lr=0.01,seed=1").table.baseline
    assert base.name == "lr=0.01, 2 seeds"


def test_results_of_other_recipes_are_no_seeds(three):
    assert len(compare(three).table.rows) == 3


def test_kernels_alone_stand_side_by_side(tmp_path, capsys):
    words = ["profile", "--attention", "softmax,dimensionwise", "--seq-len", "8,16", "--runs", "1"]
    assert run([*words, "--heads", "2", "--head-width", "4", "-q", "--json"]) == 0
    (tmp_path / "cost.json").write_text(capsys.readouterr().out)
    found = compare([tmp_path / "cost.json"])
    names = [row.name.rpartition(": ")[2] for row in found.table.rows]
    assert names == ["softmax", "dimensionwise"]
    first = json.loads((tmp_path / "cost.json").read_text())["complexity"]["kernels"]["softmax"]
    assert found.table.rows[0].cells["flops"].value == first["runs"][-1]["flops"]
    drawn = {picture.title for picture in found.pictures()}
    assert {"FLOPs (counted), both ways", "time (measured, median), both ways"} <= drawn


def changed(sweep, tmp_path, change):
    """The sweep again, with the report of one seed changed."""
    shutil.copytree(sweep, tmp_path / "again")
    file = tmp_path / "again" / "lr=0.01,seed=1" / "report.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return [row.name for row in compare([tmp_path / "again"]).table.rows]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["model"].update(sha256={"model.safetensors": "f" * 64}),
        lambda data: data["versions"].update(tlm="0.0.1"),
        lambda data: data["recipe"]["training"].update(batch=3),
    ],
    ids=["model", "version", "recipe"],
)
def test_other_models_versions_and_settings_are_no_seeds(change, sweep, tmp_path):
    apart = ["lr=0.001, 2 seeds", "lr=0.01,seed=0", "lr=0.01,seed=1"]
    assert changed(sweep, tmp_path, change) == apart


def test_a_damaged_seed_is_told(sweep, tmp_path):
    changed(sweep, tmp_path, lambda data: data["warnings"].append("the model is damaged"))
    notes = compare([tmp_path / "again"]).notes
    assert [note for note in notes if "lr=0.01,seed=1" in note and "damaged" in note]
