"""The verb overparam: exact, as large as asked, merged back, or refused."""

import json

import pytest
import torch
import trainings
from conftest import output, pico
from trainings import DYNAMIC, arguments, weights
from transformers import (
    AutoModel,
)

import tlmtool
from tlmtool.cli import run
from tlmtool.models.checkpoint import load
from tlmtool.training import growth

model, data = trainings.model, trainings.data  # its fixtures


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_overparam_is_exact_reloads_and_merges_back(family, tmp_path):
    model, folder, out, back = pico(family), *(tmp_path / n for n in ("dense", "large", "back"))
    model.save_pretrained(folder)
    assert run(["overparam", str(folder), "--growth", "3", "--out", str(out), "-q"]) == 0
    parameters = json.loads((out / "report.json").read_text())["parameters"]
    assert abs(parameters["growth"] - 3) <= 0.08 * 3
    large, before = load(out), output(model)
    assert large.config.model_type.startswith("tlm-")
    assert (output(large) - before).abs().max() <= 1e-5 * before.abs().max()
    assert run(["merge", str(out), "--out", str(back), "-q"]) == 0
    merged = AutoModel.from_pretrained(back)
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in model.parameters())
    assert (output(merged) - before).abs().max() <= 1e-5 * before.abs().max()


def test_a_total_is_met_and_an_impossible_size_refused(model, tmp_path, capsys):
    total = sum(p.numel() for p in AutoModel.from_pretrained(model).parameters())
    words = ["overparam", str(model), "--out", str(tmp_path / "out"), "-q"]
    assert run([*words, "--to-params", str(2 * total)]) == 0
    made = json.loads((tmp_path / "out" / "report.json").read_text())["parameters"]["after"]
    assert abs(made - 2 * total) <= 0.08 * 2 * total
    capsys.readouterr()
    for size, says in ((["--to-params", "10"], "not above"), (["--growth", "1"], "above 1")):
        assert run([*words, *size, "--overwrite"]) == 2 and says in capsys.readouterr().err
    assert run([*words, "--growth", "9", "--cores", "3"]) == 2


@pytest.mark.parametrize("size", [(31, 37), (32, 48), (768, 768), (384, 1536), (30522, 384)])
@pytest.mark.parametrize("wanted", [1.25, 3.0, 6.0])
def test_an_expansion_is_as_large_as_asked(size, wanted):
    made = growth.expansion(*size, wanted)
    assert abs(made.parameters(*size) / (size[0] * size[1]) - wanted) <= 0.08 * wanted


def test_overparam_from_python_is_merged_back():
    model = pico("bert").eval()
    before, count = output(model), sum(p.numel() for p in model.parameters())
    tlmtool.overparam(model, growth=2, sites=["ffn"])
    assert sum(p.numel() for p in model.parameters()) > count
    assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()
    tlmtool.merge(model)
    assert sum(p.numel() for p in model.parameters()) == count


def test_kept_cores_reload_and_give_the_merged_model(model, data, tmp_path):
    merged, kept, again = (tmp_path / name for name in ("merged", "kept", "again"))
    more = ("--steps", 10, *DYNAMIC)
    assert run(arguments(model, data, merged, *more)) == 0
    assert run(arguments(model, data, kept, *more, "--no-merge")) == 0
    assert run(["merge", str(kept), "--out", str(again), "-q"]) == 0
    for name, weight in weights(merged).items():
        torch.testing.assert_close(weights(again)[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--growth", 50, "--cores", 5], "growth 50 is above 5, the most of 5 cores"),
        (["--growth", 2, "--sites", "embedding"], "an embedding cannot be over-parameterized"),
        (["--growth", 2, "--sites", "all"], "an embedding cannot be over-parameterized"),
        (["--growth", 2, "--dtype", "bfloat16"], "with --dtype float32"),
    ],
)
def test_what_overparam_cannot_hold_is_refused(model, tmp_path, capsys, more, says):
    assert (
        run(["overparam", str(model), *map(str, more), "--out", str(tmp_path / "out"), "-q"]) == 2
    )
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not [*tmp_path.iterdir()]
