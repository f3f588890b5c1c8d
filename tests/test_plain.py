"""Guards `--plain` and `--method narrow` on the command line: what is written, and what is not."""

import json
import os
import subprocess
import sys

import compressions
import pytest
import torch
from compressions import arguments, made
from conftest import apart, auto, inputs, output
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.models.checkpoint import load

models, texts, stopped = compressions.models, compressions.texts, compressions.stopped
ALONE = """
import sys
sys.modules["tlmtool"] = None  # an import of it fails
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
given = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(model(**given)[0], sys.argv[3])
    model.generate(given["input_ids"], max_new_tokens=3, do_sample=False)
"""


def narrow(model, texts, out, *more) -> list[str]:
    return arguments(model, texts, out, "--keep", "0.8", *more)


def config(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_a_plain_checkpoint_gives_what_the_narrower_one_gives(family, models, texts, tmp_path):
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    assert run(narrow(models[family], texts, plain, "--plain")) == 0
    words = narrow(models[family], texts, ours, "--method", "narrow", "--allocate", "uniform")
    assert run(words) == 0
    found, before = config(plain), config(models[family])
    changed = {key for key in before if found[key] != before[key]}
    assert len(changed) == 1 and "tlm" not in found and found["model_type"] == family
    theirs = auto(family, "lm").from_pretrained(plain).eval()
    assert not type(theirs).__module__.startswith("tlmtool")
    assert torch.equal(output(theirs), output(load(ours)))
    sizes = [
        sum(t.numel() for t in load_file(f / "model.safetensors").values()) for f in (plain, ours)
    ]
    assert (
        sizes[0]
        == sizes[1]
        < sum(t.numel() for t in load_file(models[family] / "model.safetensors").values())
    )
    assert "import tlmtool" not in (plain / "README.md").read_text()
    assert "import tlmtool" in (ours / "README.md").read_text()


def test_a_plain_checkpoint_loads_where_there_is_no_tlm(models, texts, tmp_path):
    out = tmp_path / "out"
    assert run(narrow(models["llama"], texts, out, "--plain")) == 0
    given, found = tmp_path / "given.pt", tmp_path / "found.pt"
    torch.save(inputs(load(out)), given)
    words = [sys.executable, "-c", ALONE, str(out), str(given), str(found)]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert apart(torch.load(found), output(load(out))) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep", "0.8", "--plain", "--method", "svd"], "--plain goes with --method narrow"),
        (["--energy", "0.8", "--plain"], "--plain gives all MLPs one width"),
        (["--energy", "0.8", "--method", "narrow"], "--method narrow takes --rank or --keep"),
        (["--rank", "8", "--plain", "--attention", "dimensionwise"], "leave out --attention"),
        (["--keep", "0.8", "--plain", "--sites", "*.1.*"], "no key of config.json gives the MLPs"),
        (["--rank", "49", "--method", "narrow"], "rank 49 is above 48"),
        (["--keep", "0.1", "--plain"], "leaves dense hold"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(words, said, models, texts, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(arguments(models["llama"], texts, out, *words)) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and len(told.splitlines()) == 1 and not out.exists()


@pytest.mark.parametrize("more", [["--method", "narrow"], ["--plain"]])
def test_a_run_that_was_stopped_goes_on_to_the_same(more, models, texts, tmp_path, stopped):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(narrow(models["llama"], texts, whole, *more)) == 0
    words = narrow(models["llama"], texts, out, *more)
    stopped(words, 1)
    stopped([*words, "--resume"], 3)
    held = [*out.with_name("out.compressing").glob("group-*")]
    assert len(held) == 3
    sites = [{n.rpartition(".weight")[0] for n in load_file(file)} for file in held]
    cut = [each for each in sites if any("gate_proj" in name for name in each)]
    assert all(len(each) == 3 for each in cut)  # an MLP is finished whole
    assert run([*words, "--resume"]) == 0
    assert made(out) == made(whole)


def test_a_dry_run_tells_the_size_of_what_is_written(models, texts, tmp_path, capsys):
    words = narrow(models["llama"], texts, tmp_path / "out", "--plain")
    capsys.readouterr()
    assert run([*words, "--dry-run", "--json"]) == 0
    foreseen = json.loads(capsys.readouterr().out)
    assert run([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert foreseen["parameters"]["after"] == report["parameters"]["after"]
    assert foreseen["flops"]["after"] == report["flops"]["after"]
    assert {each["decomposition"]["name"] for each in report["sites"]} == {"narrow"}
    assert all(each["decomposition"]["width"] == 48 for each in report["sites"])


def test_a_narrower_checkpoint_is_read_by_every_verb(models, texts, tmp_path, capsys):
    out, merged = tmp_path / "out", tmp_path / "merged"
    assert run(narrow(models["llama"], texts, out, "--method", "narrow")) == 0
    for words in (
        ["evaluate", out, "--task", "perplexity", "--data", texts, "--window", "16"],
        ["profile", out, "--seq-len", "8"],
        ["merge", out, "--out", merged],
    ):
        assert run([*map(str, words), "-q", "--device", "cpu"]) == 0, capsys.readouterr().err
    assert apart(output(load(merged)), output(load(out))) < 1e-5
    assert config(merged)["intermediate_size"] == 48
