"""Commands that write, read and refuse checkpoints of 8 or 4 bits, and what they say of 8 bits."""

import json
import re
import shutil

import compressions
import pytest
import refusals
import torch
from conftest import apart, output

from tlmtool.cli import run
from tlmtool.commands.calibrating import material_of, resolved
from tlmtool.measuring.comparison import Quality
from tlmtool.models.checkpoint import load, load_tokenizer
from tlmtool.models.surgery import factorized
from tlmtool.recipe.building import build

models, texts = compressions.models, compressions.texts  # their fixtures
dense, refused = refusals.dense, refusals.refused


def told(capsys, *words) -> dict:
    """The report of a command."""
    assert run([*map(str, words), "--json", "-q", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def loss_of(folder, given: dict) -> float:
    """The loss of a folder on the text that a compression with these flags measures on."""
    model, tokenizer = load(folder), load_tokenizer(folder)
    recipe = resolved(build("compress", given), model)
    held = material_of(recipe, model, tokenizer, None).held
    length = recipe.calibration.max_length
    return Quality(model, tokenizer, held, length, recipe.seed).before.mean


@pytest.fixture(scope="module")
def small(models, tmp_path_factory):
    """A quantized llama."""
    out = tmp_path_factory.mktemp("bits") / "m8"
    assert run(["quantize", str(models["llama"]), "--bits", "8", "--out", str(out), "-q"]) == 0
    return out


def test_quantize_measures_what_it_writes(capsys, models, small):
    report = json.loads((small / "report.json").read_text())
    quality, files, held = report["quality"], report["file_bytes"], report["quantization"]
    assert held["plain"] and held["bits"] == held["embedding_bits"] == 8
    assert held["rounded"] + held["left"] == report["parameters"]["after"]
    with (small / "model.safetensors").open("rb") as opened:
        header = 8 + int.from_bytes(opened.read(8), "little")
    assert held["stored_bytes"] == files["after"] - header
    assert files["after"] == (small / "model.safetensors").stat().st_size < files["before"]
    assert files["bits_per_weight_after"] == 8 * files["after"] / report["parameters"]["after"]
    assert quality["after"] == pytest.approx(loss_of(small, {"model": "m", "keep": 0.5}), rel=1e-6)
    assert apart(output(load(small)), output(load(models["llama"]))) < 0.05
    card = (small / "README.md").read_text()
    assert "weights in 8 bits" in card and "import tlmtool" not in card
    assert "pip install compressed-tensors" in card


def test_a_quantized_folder_is_profiled_evaluated_and_merged(
    capsys,
    models,
    texts,
    small,
    tmp_path,
):
    size = (small / "model.safetensors").stat().st_size
    found = told(capsys, "profile", small, "--against", models["llama"], "--seq-len", 8)
    first, second = found["models"]
    assert first["file_bytes"] == size < second["file_bytes"]
    assert first["bits_per_weight"] < second["bits_per_weight"]
    words = ("--task", "perplexity", "--data", texts, "--window", 16)
    found = told(capsys, "evaluate", small, *words, "--baseline", models["llama"])
    assert found["models"][0]["file_bytes"] == size
    copy = shutil.copytree(small, tmp_path / "copy")
    told(capsys, "evaluate", copy, *words, "--out", copy)
    kept = json.loads((copy / "report.json").read_text())
    assert kept["evaluations"] and kept["quantization"]["bits"] == 8
    assert abs(found["baseline"]["difference"]) < 0.05
    merged = told(capsys, "merge", small, "--out", tmp_path / "floats")
    assert merged["file_bytes"]["before"] == size < merged["file_bytes"]["after"]
    assert torch.equal(output(load(tmp_path / "floats")), output(load(small)))
    assert "quantization_config" not in (tmp_path / "floats" / "config.json").read_text()


@pytest.mark.parametrize("recover", [False, True])
def test_compress_measures_the_rounded_model(
    capsys,
    models,
    texts,
    tmp_path,
    recover,
):
    """Whose numbers are those of the files: rounding comes last, after the recovery."""
    out, more = tmp_path / "out", ("--bits", "4", "--embedding-bits", "8")
    more += ("--recover", "2", "--data", texts) if recover else ()
    words = ("compress", models["bert"], "--keep", 0.6, "--sites", "all", "--calibration", texts)
    report = told(capsys, *words, "--max-length", 12, "--out", out, *more)
    given = {"model": "m", "keep": 0.5}
    held, model = report["quantization"], load(out)
    assert any(factorized(model)) and not held["plain"]
    assert (held["bits"], held["embedding_bits"]) == (4, 8)
    assert any("stay floats" in text for text in report["warnings"])
    if not recover:
        given |= {"calibration": str(texts), "max-length": 12}
        assert report["quality"]["after"] == pytest.approx(loss_of(out, given), rel=1e-6)
    merged = told(capsys, "merge", out, "--out", tmp_path / "merged")
    assert merged["parity"]["relative"] < 1e-5
    assert apart(output(load(tmp_path / "merged")), output(model)) < 1e-4


def test_every_compression_says_what_8_bits_alone_would_do(
    capsys,
    models,
    small,
    tmp_path,
):
    """The same size and the same loss as quantizing gives."""
    words = ("compress", models["llama"], "--rank", 4, "--out", tmp_path / "out")
    report = told(capsys, *words)
    alone = json.loads((small / "report.json").read_text())
    assert report["int8"]["value"] == pytest.approx(alone["quality"]["after"], rel=1e-6)
    header = alone["file_bytes"]["after"] - report["int8"]["file_bytes"]
    with (small / "model.safetensors").open("rb") as opened:
        assert header == 8 + int.from_bytes(opened.read(8), "little")
    card = (tmp_path / "out" / "README.md").read_text()
    row = re.search(r"^\| int8 of the dense model \|.*$", card, re.M)[0]
    assert f"{report['int8']['value']:.4f}" in row
    assert re.search(
        r"^int8 of the dense model is smaller than this model, and its loss", card, re.M
    )


def test_a_streamed_model_is_told_to_be_unmeasured(capsys, models, tmp_path):
    words = ("compress", models["llama"], "--rank", 4, "--memory", "100KB")
    report = told(capsys, *words, "--out", tmp_path / "out")
    assert report["streamed"] and "value" not in report["int8"]
    assert "not measured" in report["int8"]["not_measured"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bits", 3), "--bits must be 8 or 4, got 3"),
        ((), "quantize needs --bits 8 or --bits 4"),
        (("--embedding-bits", 8), "quantize needs --bits"),
        (("--bits", 8, "--embedding-bits", 7), "must be 16, 8 or 4"),
    ],
)
def test_wrong_bits(refused, dense, words, says):
    assert says in refused(2, dense, *words, verb="quantize")


def test_embedding_bits_of_compress_go_with_bits(refused, dense):
    assert "goes with --bits" in refused(2, dense, "--rank", 2, "--embedding-bits", 8)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("compress", ("--rank", 2)),
        ("quantize", ("--bits", 4)),
        ("overparam", ("--growth", 2)),
        ("finetune", ("--task", "grammar")),
    ],
)
def test_what_changes_weights_refuses_quantized_ones(refused, small, verb, words):
    sentence = refused(4, small, *words, verb=verb)
    assert re.search(r"is quantized already \(compressed-tensors, 8 bits\)", sentence)
    assert f"tlm {verb} works on weights in float32" in sentence
