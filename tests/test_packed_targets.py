"""Guards `--target-size` with `--bits`: files are never larger, and hardly smaller, than asked."""

import json

import compressions
import pytest
from compressions import arguments, made
from conftest import pico, word_tokenizer
from trainings import sentence

from tlmtool.cli import run
from tlmtool.recipe.building import build

texts = compressions.texts  # its fixture
STEP = 16 * (99 + 64) * 4  # the most bytes of a step of the table of tokens, in floats
LINES = 40 * 150  # about the bytes by which the header is counted too long


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    pico("llama", "lm", hidden_size=64, intermediate_size=288).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def size_of(folder) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("how", "bits"),
    [
        (["--method", "svd"], "4"),
        (["--plain", "--sites", "ffn"], "4"),
        (["--sites", "attention,ffn"], "8"),
    ],
)
def test_files_are_as_large_as_asked(how, bits, model, texts, tmp_path, capfd):
    whole, out, alone = tmp_path / "whole", tmp_path / "out", tmp_path / "alone"
    assert run(["quantize", str(model), "--bits", bits, "--out", str(whole), "-q"]) == 0
    target = int(0.75 * size_of(whole))
    more = [*how, "--bits", bits]
    words = arguments(model, texts, out, "--target-size", f"{target}B", *more)
    assert run(words) == 0
    assert target - STEP - LINES < size_of(out) <= target
    report = json.loads((out / "report.json").read_text())
    keep = build("compress", recipe_file=out / "recipe.yaml").compression.keep
    told = f"--target-size {target}B, which is --keep {keep:.4f} of the chosen layers"
    assert report["allocation"]["target"] == told
    capfd.readouterr()
    assert run([*words, "--resume"]) == 0
    assert "is done already" in capfd.readouterr().err
    assert run(arguments(model, texts, alone, "--keep", str(keep), *more)) == 0
    assert made(alone)["model.safetensors"] == made(out)["model.safetensors"]


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("20KB", "cannot be reached: in 8 bits and with --sites all the least is"),
        ("1MB", "leaves nothing to compress: in 8 bits the model takes about"),
    ],
)
def test_what_cannot_be_reached_is_refused(size, says, model, texts, tmp_path, capfd):
    words = ["--target-size", size, "--bits", "8"]
    assert run(arguments(model, texts, tmp_path / "out", *words)) == 2
    assert says in sentence(capfd) and not (tmp_path / "out").exists()
