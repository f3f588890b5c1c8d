"""Budgets of the whole model: never above the target, close below it, and refused in a sentence."""

import json

import compressions
import pytest
from compressions import arguments, made
from conftest import pico
from trainings import sentence

from tlmtool.cli import run
from tlmtool.models.footprint import file_bytes
from tlmtool.recipe.building import build

texts, models = compressions.texts, compressions.models  # its fixtures
LINE = 140  # the most bytes of a tensor in the header of a file of these models
STEP = 4 * (99 + 32)  # bytes of a rank of the largest layer, the table of tokens


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize(("method", "share"), [("svd", 0.9), ("svd", 0.65), ("auto", 0.8)])
def test_files_are_as_large_as_asked(family, method, share, models, texts, tmp_path):
    """With the svd they are less than a rank below. The header is counted at its longest, with
    two factors for each layer that may stay dense."""
    out = tmp_path / "out"
    target = int(share * sum(f.stat().st_size for f in models[family].glob("*.safetensors")))
    words = ["--target-size", f"{target}B", "--method", method, "--calibration", "none"]
    assert run(arguments(models[family], texts, out, *words)) == 0
    found, size = report(out), (out / "model.safetensors").stat().st_size
    sites = len(found["sites"]) + len(found["left_dense"])
    assert size <= target
    assert target < size + STEP + LINE * (sites + 1) or method == "auto"
    assert found["allocation"]["target"].startswith(f"--target-size {target}B, which is --keep 0.")
    assert build("compress", recipe_file=out / "recipe.yaml").compression.target_size is None


def test_shares_of_the_whole_model(models, texts, tmp_path, capsys):
    out, alone = tmp_path / "out", tmp_path / "alone"
    words = ["--target-parameters", "0.7"]
    assert run(arguments(models["bert"], texts, out, *words)) == 0
    sizes = report(out)["parameters"]
    assert 0.69 < sizes["after"] / sizes["before"] <= 0.7
    keep = report(out)["recipe"]["compression"]["keep"]
    assert run(arguments(models["bert"], texts, alone, "--keep", str(keep))) == 0
    assert made(alone) == {**made(out), "report": made(alone)["report"]}
    assert run([*arguments(models["bert"], texts, out, *words), "--resume"]) == 0
    told = capsys.readouterr().out
    share = f"{sizes['after'] / sizes['before']:.2f} of the model"
    assert f"keeps {sizes['keep']:.2f} of the chosen layers, {share}" in told


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--target-size", "9KB"], ", and no other sites reach it"),
        (["--target-size", "1GB"], "leaves nothing to compress: the model takes about 9"),
        (["--target-size", "many"], "--target-size must be a size such as 100MB"),
        (["--target-size", "1MB", "--keep", "0.5"], "exclude each other: give one budget"),
        (["--target-size", "60KB", "--attention", "dimensionwise"], "does not go with --attention"),
        (
            ["--target-parameters", "0.5", "--sites", "attention"],
            "cannot be reached: with --sites attention the least, at rank 1, is 0.",
        ),
    ],
)
def test_what_cannot_be_reached_is_refused(more, says, models, texts, tmp_path, capfd):
    assert run(arguments(models["bert"], texts, tmp_path / "out", *more)) == 2
    told = sentence(capfd)
    assert says in told and not (tmp_path / "out").exists()
    if "attention" in more and "cannot" in told:
        assert "; with --sites attention,ffn it is 0." in told or "--sites all it is 0." in told


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "llama"])
def test_the_bytes_of_a_model_are_known_before_it_is_written(family, tmp_path):
    model = pico(family, "lm")
    model.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size <= file_bytes(model, 10**9) < size + 16 * len(model.state_dict()) + 200


@pytest.mark.parametrize(
    ("family", "more", "reads"),
    [("bert", "tokens", "texts, as --calibration-samples"), ("llama", "samples", "windows, as")],
)
def test_what_calibration_does_not_read_is_said(
    family, more, reads, models, texts, tmp_path, capfd
):
    words = arguments(models[family], texts, tmp_path / "out", "--rank", "2", "--dry-run")
    assert run([*words, f"--calibration-{more}", "8"]) == 0
    assert f"--calibration-{more} is not read: this model reads {reads}" in capfd.readouterr().out
    assert run(words) == 0
    assert "is not read" not in capfd.readouterr().out
