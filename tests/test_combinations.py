"""Guards parts of a compression that meet: memory, recovery, budgets, bits, narrow, pipelines."""

import json

import compressions
import pytest
import torch
import yaml
from compressions import arguments, made
from conftest import output
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.models.checkpoint import load
from tlmtool.models.surgery import plan_of

models, texts = compressions.models, compressions.texts  # their fixtures
NARROW = ["--keep", "0.8", "--method", "narrow"]


@pytest.mark.parametrize("more", [NARROW, ["--keep", "0.8", "--plain"]])
def test_a_streamed_model_gets_as_narrow(more, models, texts, tmp_path):
    """Read block by block, its weights are those of the model in memory."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(arguments(models["llama"], texts, whole, *more)) == 0
    assert run(arguments(models["llama"], texts, out, *more, "--memory", "60KB")) == 0
    assert json.loads((out / "report.json").read_text())["streamed"]
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, out))
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    "more", [["--method", "narrow"], ["--recover", "2"], ["--bits", "8", "--recover", "2"]]
)
def test_each_of_several_budgets_is_as_by_itself(more, models, texts, tmp_path, capfd):
    out, alone, words = tmp_path / "out", tmp_path / "alone", ["--keep", "0.9,0.8", *more]
    assert run(arguments(models["llama"], texts, out, *words)) == 0
    assert run(arguments(models["llama"], texts, alone, "--keep", "0.8", *more)) == 0
    found, single = made(out / "keep-0.8"), made(alone)
    for each in (found, single):
        each["report"].pop("recovery", None)  # it has seconds
    assert found == single
    kept = (out / "keep-0.9" / "model.safetensors").stat().st_mtime_ns
    for file in (out / "keep-0.8").iterdir():
        file.unlink()
    capfd.readouterr()
    assert run([*arguments(models["llama"], texts, out, *words), "--resume"]) == 0
    assert "keep-0.9 is done already" in capfd.readouterr().err
    assert made(out / "keep-0.8")["model.safetensors"] == single["model.safetensors"]
    assert (out / "keep-0.9" / "model.safetensors").stat().st_mtime_ns == kept


def test_stages_read_what_a_stage_has_stored_in_few_bits(models, texts, tmp_path):
    smaller = {"compression": {"keep": 0.7, "sites": ["ffn"], "method": "narrow"}}
    smaller |= {"calibration": {"text": str(texts)}, "quantization": {"bits": 8}}
    score = {"task": "clm", "data": str(texts)}
    stages = [
        {"name": "smaller", "verb": "compress", "model": str(models["llama"]), **smaller},
        {"name": "score", "verb": "evaluate", "evaluation": score},
        {"name": "floats", "verb": "merge", "model": "@smaller"},
        {"name": "again", "verb": "quantize", "quantization": {"bits": 4}},
    ]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"stages": stages}))
    out = tmp_path / "out"
    assert run(["run", str(tmp_path / "p.yaml"), "--out", str(out), "-q"]) == 0
    assert {d.name for d in plan_of(load(out / "smaller")).values()} == {"narrow"}
    assert torch.allclose(output(load(out / "floats")), output(load(out / "smaller")), atol=1e-4)
    assert json.loads((out / "again" / "report.json").read_text())["quantization"]["bits"] == 4
