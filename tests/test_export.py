"""An exported graph computes what its model computes, at any batch and length, or is not left."""

import json
from itertools import product

import pytest
import torch
from conftest import apart as apart_of
from conftest import output, pico, word_tokenizer
from factored import compressed, plan_for
from transformers import AutoConfig, BertConfig

from tlmtool.attention import named as kernel
from tlmtool.attention._plain import as_plain, plain
from tlmtool.cli import run
from tlmtool.exporting import NAMES, _running, named
from tlmtool.exporting._graph import write_graph
from tlmtool.exporting._inputs import example, signature
from tlmtool.exporting._running import TOLERANCE, apart, of_torch
from tlmtool.exporting._session import of_file
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.modeling import adopt
from tlmtool.models.saving import save
from tlmtool.models.surgery import factorize, plan_of
from tlmtool.recipe.exporting import targets

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def with_kernels(family: str, head: str, name: str, **choices):
    """A pico model whose attention is one kernel."""
    model = pico(family, head)
    attend(model, {path: kernel(name)(**choices) for path in attention_sites(model)})
    return adopt(model).eval()


@pytest.fixture
def graph(tmp_path):
    """A function from a model to (its signature, a runner of its graph)."""

    def made(model):
        found = signature(model)
        write_graph(model, found, tmp_path / "model.onnx")
        return found, of_file(tmp_path / "model.onnx")

    return made


def test_the_folder_is_the_registry():
    assert set(targets()) == set(NAMES) and {"onnx", "openvino"} <= set(NAMES)
    assert all(named(name).name == name for name in NAMES)
    with pytest.raises(ValueError, match=r"unknown format 'coreml'; known: .*onnx"):
        named("coreml")


def test_factors_of_every_kind_in_an_encoder(graph):
    """Each site is of the next kind, and the embedding has factors too."""
    model, kinds = pico("bert"), ("svd", "btd", "tucker", "cp", "mpo")
    plans = [plan_for(model, name, embedding=True) for name in kinds]
    factorize(model, {site: plans[i % len(kinds)][site] for i, site in enumerate(plans[0])})
    made, runner = graph(adopt(model))
    assert {each.name for each in plan_of(model).values()} == {*kinds}
    assert made.outputs == ("last_hidden_state",) and not made.cache
    assert apart(model, made, runner, of_torch(model, made))[1] < TOLERANCE


def test_a_decoder_goes_on_from_its_cache(graph):
    """Token by token it gives what the whole text gives at once, from an empty cache on."""
    model = compressed("llama", "lm", name="svd")
    made, runner = graph(model)
    assert len(made.cache) == 2 and made.inputs[2] == "past_key_values.0.key"
    assert apart(model, made, runner, of_torch(model, made))[1] < TOLERANCE
    given = example(model, made, 1, 6)
    whole, cache = runner(given)[0], {name: given[name] for name in made.past}
    steps = []
    for place in range(6):
        one = {"input_ids": given["input_ids"][:, place : place + 1]}
        one["attention_mask"] = torch.ones(1, place + 1, dtype=torch.long)
        logits, *held = runner(one | cache)
        cache = dict(zip(made.past, held, strict=True))
        steps.append(logits)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-4 * float(whole.abs().max()))


@pytest.mark.parametrize("f", ["cosine", "features"])
def test_kernels_are_exported_without_a_cache(graph, f):
    model = with_kernels("llama", "lm", "dimensionwise", f=f)
    made, runner = graph(model)
    assert made.cache == () and made.outputs == ("logits",)
    assert apart(model, made, runner, of_torch(model, made))[1] < TOLERANCE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A compressed checkpoint, an encoder-decoder and what is written of the first."""
    folder = tmp_path_factory.mktemp("export")
    model = compressed("bert", "base", name="svd")
    save(model, folder / "small")
    word_tokenizer().save_pretrained(folder / "small")
    pico("bart", "lm").save_pretrained(folder / "two")
    return folder


def test_the_command_writes_checks_and_times(place, capsys):
    words = ["export", str(place / "small"), "--to", "onnx", "--bits", "8", "--runs", "1"]
    assert run([*words, "--out", str(place / "out"), "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parity"]["relative"] < report["parity"]["tolerance"] == 1e-4
    assert report["parity"]["rounding"] > report["parity"]["relative"]
    torch_row, plain, rounded = report["beside"]["models"]
    file = place / "out" / "onnx" / "model.onnx"
    assert rounded["file_bytes"] == file.stat().st_size == report["file_bytes"]["after"]
    assert plain["file_bytes"] > rounded["file_bytes"] and torch_row["latency_ms"]["median"] > 0
    there = {f.relative_to(place / "out").as_posix() for f in (place / "out").rglob("*.*")}
    assert there == {*report["files"]} and "tokenizer.json" in there
    config = json.loads((place / "out" / "config.json").read_text())
    assert config["model_type"] == "bert" and not {"tlm", "auto_map"} & {*config}
    assert type(AutoConfig.from_pretrained(place / "out")) is BertConfig
    assert "import onnxruntime" in (place / "out" / "README.md").read_text()
    assert run([*words, "--out", str(place / "out"), "-q"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (place / "out" / "mine.txt").write_text("")
    assert run([*words, "--out", str(place / "out"), "--overwrite"]) == 2
    assert "mine.txt, which is no file of an export" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_left(place, capsys, monkeypatch):
    monkeypatch.setattr(_running, "TOLERANCE", 1e-12)
    words = ["export", str(place / "small"), "--to", "onnx", "--out", str(place / "none")]
    assert run([*words, "-q"]) == 3
    assert "of its largest output, more than 1e-12" in capsys.readouterr().err
    assert not list(place.glob("*none*"))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("small", 2, "export needs a format: --to "),
        ("small --to onnx --bits 4", 2, "rounds to 8 bits"),
        ("small --to onnx --dtype float16", 2, "writes float32, or 8 bits"),
        ("two --to onnx", 2, "an encoder and a decoder, which take two graphs"),
        ("small --to onnx --against nowhere/at/all/x", 4, "does not exist"),
        ("small --to lora", 2, "`tlm repair MODEL --against ORIGINAL`"),
        ("small --to vllm", 2, "`vllm serve MODEL`"),
        ("small --to coreml", 2, "--to must be gguf, onnx or openvino, got 'coreml'"),
    ],
)
def test_what_cannot_be_written_is_told_before_any_work(place, capsys, words, code, says):
    name, *more = words.split()
    out = place / "refused"
    assert run(["export", str(place / name), *more, "--out", str(out)]) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not out.exists()


def test_a_dry_run_predicts_and_writes_nothing(place, capsys):
    words = ["export", str(place / "small"), "--to", "onnx", "--dry-run", "--json", "-q"]
    assert run([*words, "--out", str(place / "dry")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["predicted"] and report["export"]["expected_bytes"] > 0
    assert "parity" not in report and not (place / "dry").exists()


def test_a_missing_package_is_one_sentence(place, capsys, monkeypatch):
    monkeypatch.setattr("tlmtool.exporting.base.find_spec", lambda name: None)
    assert run(["export", str(place / "small"), "--to", "onnx", "--out", str(place / "x")]) == 5
    assert "pip install 'tlmtool[onnx]'" in capsys.readouterr().err


def test_kernels_as_plain_products_compute_the_same():
    for kind, f in product(("bert", "llama"), ("cosine", "features")):
        model = with_kernels(kind, "lm", "dimensionwise", f=f)
        before = output(model)
        with as_plain():
            assert apart_of(output(model), before) < 1e-5
        assert not plain()


def test_openvino_computes_the_same(tmp_path):
    pytest.importorskip("openvino")
    target, model = named("openvino"), compressed("bert", "base", name="btd")
    made, file = signature(model), tmp_path / "openvino_model.xml"
    target.graph(model, made, file)
    assert apart(model, made, target.runner(file), of_torch(model, made))[1] < TOLERANCE
    assert {each.suffix for each in tmp_path.iterdir()} == {".xml", ".bin"}
