"""Guards `compress --attention`: what is fitted, which layers are chosen, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from test_attending import KERNELS

from tlmtool.attention.dimensionwise import START, DimensionWise
from tlmtool.cli import run
from tlmtool.failure import Usage
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.checkpoint import load
from tlmtool.models.kernels import converted


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pico") / "model"
    pico("bert").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(120)]
    file.write_text("\n".join(" ".join(WORDS[i] for i in order) for order in orders) + "\n")
    return file


@pytest.mark.parametrize(
    "more",
    [
        ["--attention", "dimensionwise", "--mixer", "3"],
        ["--attention", "multilinear", "--w-o", "conv", "--attention-rank", "6"],
        ["--attention", "multilinear", "--w-o", "decay", "--attention-blocks", "2"],
    ],
)
def test_a_converted_checkpoint_is_fitted_and_recovers(checkpoint, texts, more, tmp_path):
    out = tmp_path / "out"
    words = ["compress", str(checkpoint), *more, "--layers", "1", "--data", str(texts)]
    words += ["--recover", "40", "--recover-batch", "8", "--recover-lr", "3e-4", "-q"]
    assert run([*words, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    (layer,) = report["attention"]["layers"]
    assert layer["site"] == "encoder.layer.1.attention.self" and 0 < layer["output_error"] <= 1
    found = report["recovery"]
    assert found["recovered"] < found["compressed"] and found["dense"] == 0
    model = load(out)
    assert [p for p, _ in converted(model)] == [layer["site"]]


@pytest.mark.parametrize(("calibration", "size"), [("texts", 1.0), ("none", START)])
def test_w_starts_small_only_where_no_output_map_is_fitted(
    checkpoint, texts, calibration, size, tmp_path
):
    """A fitted map takes the size of its features away."""
    words = ["compress", str(checkpoint), "--attention", "dimensionwise", "--layers", "1", "-q"]
    given = str(texts) if calibration == "texts" else "none"
    assert run([*words, "--calibration", given, "--out", str(tmp_path / "out")]) == 0
    ((_, module),) = converted(load(tmp_path / "out"))
    kernel = module.kernel["kernel"]
    assert 0.7 < kernel.std() * kernel.shape[-1] ** 0.5 / size < 1.4


def test_the_output_map_is_the_best_one(checkpoint, texts, tmp_path):
    """Least squares: no other map of the features comes nearer on the text it was given."""
    from tlmtool.compression.calibration import prepared, real
    from tlmtool.compression.conversion import convert

    dense, model = (load(checkpoint).eval() for _ in range(2))
    path = attention_sites(model)[0]
    batches = prepared(model, word_tokenizer(), texts.read_text().split("\n")[:60], 32, 512)
    (record,) = convert(model, {path: KERNELS["dimensionwise"]}, batches)
    seen = {}
    for name, each in (("dense", dense), ("kernel", model)):
        output = each.encoder.layer[0].attention.output.dense
        handle = output.register_forward_hook(
            lambda m, args, out, name=name: seen.setdefault(name, []).append((args[0], out))
        )
        with torch.no_grad():
            for batch in batches:
                each(**batch.inputs)
        handle.remove()
    rows = {
        name: [
            torch.cat([real(x[k], b) for x, b in zip(held, batches, strict=True)]) for k in (0, 1)
        ]
        for name, held in seen.items()
    }
    wrong = rows["kernel"][1] - rows["dense"][1]
    centred = rows["dense"][1] - rows["dense"][1].mean(0)
    assert float(wrong.norm() / centred.norm()) == pytest.approx(record["output_error"], rel=1e-2)
    x = torch.cat((rows["kernel"][0], torch.ones(len(wrong), 1)), 1)
    best = torch.linalg.lstsq(x, rows["dense"][1]).solution
    assert wrong.norm() <= 1.2 * (x @ best - rows["dense"][1]).norm() + 0.1 * centred.norm()


def test_layers_are_chosen_by_what_they_cost(checkpoint, texts, tmp_path, capsys):
    words = ["compress", str(checkpoint), "--attention", "dimensionwise", "-q"]
    words += ["--calibration", str(texts), "--max-loss-increase"]
    assert run([*words, "100", "--out", str(tmp_path / "all")]) == 0
    report = json.loads((tmp_path / "all" / "report.json").read_text())["attention"]
    costs = [each["increase"] for each in report["alone"]]
    assert len(report["layers"]) == 2 and costs == sorted(costs)
    between = (costs[0] + report["alone"][1]["together"]) / 2
    assert run([*words, str(between), "--out", str(tmp_path / "one")]) == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())["attention"]
    assert [each["site"] for each in report["layers"]] == [report["alone"][0]["site"]]
    capsys.readouterr()
    assert run([*words, "1e-9", "--out", str(tmp_path / "none")]) == 2
    assert "no layer stays within" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--attention", "dimensionwise", "--layers", "2"], "out of range: the layers of this"),
        (["--attention", "dimensionwise", "--layers", "x"], "layers such as 3-5"),
        (["--attention", "dimension"], "did you mean dimensionwise"),
        (["--attention", "dimensionwise", "--f", "sofmax"], "did you mean softmax"),
        (["--attention", "dimensionwise", "--w-o", "conv"], "has no --w-o"),
        (["--attention", "multilinear", "--attention-rank", "40"], "above 32"),
        (["--layers", "1", "--rank", "2"], "give that too"),
        (["--attention", "multilinear", "--w-o", "full"], "one length"),
    ],
)
def test_bad_input_is_one_sentence(checkpoint, tmp_path, capsys, more, says):
    assert run(["compress", str(checkpoint), *more, "--out", str(tmp_path / "out"), "-q"]) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and not (tmp_path / "out").exists()


def test_a_dry_run_counts_the_kernels(checkpoint, capsys):
    words = ["compress", str(checkpoint), "--attention", "dimensionwise", "--dry-run", "--json"]
    assert run([*words, "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] and len(found["attention"]["layers"]) == 2
    model = load(checkpoint)
    attend(model, dict.fromkeys(attention_sites(model), DimensionWise()))
    assert found["parameters"]["after"] == sum(p.numel() for p in model.parameters())


def test_a_kernel_that_is_not_there_is_refused():
    from tlmtool.compression.choosing import kernel_of
    from tlmtool.recipe.attention import Attending

    with pytest.raises(Usage, match="has no --kernels"):
        kernel_of(Attending(kind="multilinear", kernels=2))
