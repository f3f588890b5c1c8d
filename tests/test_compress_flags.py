"""Flags of compress, merge and profile on a pico checkpoint: each does what it says."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIGS, pico
from front_door import TEXTS, furnished, same_weights, saved, tensors, tlm, told

from tlmtool.data.language import held_out
from tlmtool.decompositions import NAMES, named
from tlmtool.models import checkpoint
from tlmtool.models.surgery import sites


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return furnished(tmp_path_factory.mktemp("room"))


@pytest.fixture
def compress(room, tmp_path, capsys):
    """Compress the dense bert with these flags; {site: record}, and the report."""

    def go(*flags, out="out", calibration="none"):
        folder, text = tmp_path / out, ("--calibration", calibration)
        report = told(capsys, "compress", room / "dense", *text, *flags, "--out", folder)
        return {each["site"]: each for each in report["sites"]}, report

    return go


def test_a_dry_run_of_a_rank_predicts_the_costs_and_writes_nothing(room, tmp_path, capsys):
    given = ("compress", room / "dense", "--rank", 3, "--calibration", room / "text.txt")
    out = ("--out", tmp_path / "out")
    predicted = told(capsys, *given, *out, "--dry-run")
    assert predicted["predicted"] and not [*tmp_path.iterdir()]
    real = told(capsys, *given, *out)
    assert [predicted[k] for k in ("parameters", "flops", "left_dense")] == [
        real[k] for k in ("parameters", "flops", "left_dense")
    ]
    assert tlm(*given, "--dry-run") == 0  # the table
    assert "nothing was written" in capsys.readouterr().out


def test_two_factors_cost_two_flops_a_parameter_and_token(room, capsys):
    flags = ("--rank", 3, "--method", "svd", "--dry-run")
    report = told(capsys, "compress", room / "dense", *flags)
    p, flops = report["parameters"], report["flops"]
    tokens = CONFIGS["bert"]["max_position_embeddings"]
    assert flops["before"] - flops["after"] == 2 * tokens * (p["sites_before"] - p["sites_after"])


@pytest.mark.parametrize(
    ("flags", "globs"),
    [
        ("--rank 3", ["*.attention.*"]),
        ("--rank 3 --sites ffn", ["*.intermediate.dense", "encoder.layer.?.output.dense"]),
        ("--rank 3 --sites embedding", ["embeddings.word_embeddings"]),
        ("--rank 3 --sites *.query,encoder.layer.1.output.*", ["*.query", "*.1.output.dense"]),
        ("--rank 3 --ignore *.layer.0.*,*.query", ["*.1.*.key", "*.1.*.value", "*.1.attention.o*"]),
        ("--keep 0.5 --sites all", ["*"]),
    ],
)
def test_sites_and_ignore_choose(compress, flags, globs):
    records, report = compress(*flags.split())
    wanted = {s for s in sites(pico("bert", "lm")) if any(fnmatchcase(s, g) for g in globs)}
    assert {*records, *(each["site"] for each in report["left_dense"])} == wanted


@pytest.mark.parametrize("method", [name for name in NAMES if named(name).alone])
def test_method_and_the_error_of_its_weights(room, tmp_path, compress, method):
    records, _ = compress("--rank", 2, "--method", method)
    assert {each["decomposition"]["name"] for each in records.values()} == {method}
    dense, small = checkpoint.load(room / "dense"), checkpoint.load(tmp_path / "out")
    for site, record in records.items():
        w = dense.base_model.get_submodule(site).weight.detach().double()
        off = small.base_model.get_submodule(site).dense_weight().double() - w
        assert float(off.norm() / w.norm()) == pytest.approx(record["weight_error"], rel=1e-4)
        assert "output_error" not in record


def test_blocks_and_overrides(room, tmp_path, compress, capsys):
    records, _ = compress("--rank", 2, "--blocks", 3)
    assert {each["decomposition"]["blocks"] for each in records.values()} == {3}
    recipe = {
        "compression": {
            "rank": 2,
            "overrides": [
                {"sites": "*.query", "method": "svd", "rank": 4},
                {"sites": "encoder.layer.1.*", "method": "tucker"},
                {"sites": "*.0.attention.self.value", "rank": 32, "blocks": 5},
            ],
        }
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    records, report = compress("--recipe", tmp_path / "r.yaml", out="other")
    chosen = {site: each["decomposition"] for site, each in records.items()}
    names = {"0.self.query": ("svd", 4), "1.self.query": ("tucker", 4), "0.self.key": ("btd", 2)}
    for site, expected in names.items():
        layer, module = site.split(".", 1)
        found = chosen[f"encoder.layer.{layer}.attention.{module}"]
        assert (found["name"], found["rank"]) == expected
    (left,) = report["left_dense"]
    assert left["site"] == "encoder.layer.0.attention.self.value" and "W holds" in left["reason"]
    dense, small = tensors(room / "dense"), tensors(tmp_path / "other")
    key = f"bert.{left['site']}.weight"
    assert torch.equal(small[key], dense[key])
    assert tlm("compress", "--recipe", tmp_path / "r.yaml", room / "dense", "--dry-run") == 0
    assert left["reason"] in capsys.readouterr().out


def test_allocate(compress):
    even, first = compress("--keep", 0.5, "--allocate", "uniform", "--method", "svd")
    free, second = compress("--keep", 0.5, "--allocate", "greedy", "--method", "svd", out="other")
    assert len({each["keep"] for each in even.values()}) == 1
    assert len({each["keep"] for each in free.values()}) > 1
    step = 2 * 64 / (8 * 32 * 32)  # of a singular value in a layer
    for report in (first, second):
        assert 0.5 - step < report["parameters"]["keep"] <= 0.5
    assert second["allocation"]["loss"] and first["allocation"] == {}


def test_fit_once_and_sequential_part_after_the_first_inputs(room, tmp_path, compress):
    for how in ("once", "sequential"):
        compress("--rank", 2, "--fit", how, out=how, calibration=room / "text.txt")
    a, b = tensors(tmp_path / "once"), tensors(tmp_path / "sequential")
    first = "bert.encoder.layer.0.attention.self.query.weight.core"
    last = "bert.encoder.layer.1.attention.output.dense.weight.core"
    torch.testing.assert_close(a[first], b[first], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(a[last], b[last], rtol=1e-1)


def test_calibration_texts_are_counted_and_few_are_enough(room, tmp_path, compress):
    _, report = compress("--rank", 2, "--calibration-samples", 7, calibration=room / "text.txt")
    assert report["calibration"]["texts"] == 7
    assert report["quality"]["texts"] == len(held_out(TEXTS)[1])  # those that any run would measure
    (tmp_path / "two.txt").write_text("the cat sat\non a mat")
    _, report = compress("--rank", 2, calibration=tmp_path / "two.txt", out="two")
    assert report["calibration"]["texts"] == 2 and report["calibration"]["tokens"] == 10
    assert report["calibration"]["measured_on"] == "the text that comes with tlm"
    _, report = compress("--rank", 2, out="none")
    assert report["calibration"] == {"source": "none: the weights alone decide"}


def test_a_site_that_keeps_little_is_warned_of(room, tmp_path, capsys):
    flags = ("--rank", 1, "--blocks", 1, "--calibration", "none", "--out", tmp_path / "out")
    assert tlm("compress", room / "dense", *flags) == 0
    out, err = capsys.readouterr()
    assert (
        out.count(f"keeps {(1 + 4 + 8 + 32) / 32**2:.3f} of its parameters, the least of 8 ") == 1
        and "factorizing" in err
    )


def test_without_a_tokenizer_the_weights_alone_decide(tmp_path, capsys):
    pico("llama", "base").save_pretrained(tmp_path / "dense")
    report = told(capsys, "compress", tmp_path / "dense", "--rank", 2, "--out", tmp_path / "out")
    assert "quality" not in report and "has no tokenizer" in report["warnings"][-1]


def test_fail_if_exits_3_after_writing(room, tmp_path, capsys):
    given = ("compress", room / "dense", "--rank", 3, "--calibration", "none", "--out")
    report = told(capsys, *given, tmp_path / "a", "--fail-if", "loss>0", code=3)
    assert report["quality"]["after"] > 0 and same_weights(tmp_path / "a", tmp_path / "a")
    assert tlm(*given, tmp_path / "b", "--fail-if", "loss<0") == 0


def test_the_folder_of_itself(room, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tlm("compress", room / "dense", "--rank", 8, "--blocks", 1, "-q") == 0
    assert tlm("merge", "out/dense-rank8", "-q") == 0
    assert {f.name for f in Path("out").iterdir()} == {"dense-rank8", "dense-rank8-dense"}


def test_shards(room, tmp_path, compress, capsys):
    dense = tmp_path / "dense"
    checkpoint.load(room / "dense").save_pretrained(dense, max_shard_size="20KB")
    given = ("compress", dense, "--rank", 2, "--calibration", "none", "--max-shard-size", "20KB")
    report = told(capsys, *given, "--out", tmp_path / "out")
    files = [*dense.glob("*.safetensors")]
    assert len(files) > 2 and report["model"]["sha256"].keys() == {f.name for f in files}
    assert report["file_bytes"]["before"] == sum(f.stat().st_size for f in files)
    assert len([*(tmp_path / "out").glob("*.safetensors")]) > 2
    compress("--rank", 2, out="whole")
    assert same_weights(tmp_path / "out", tmp_path / "whole")


def test_bfloat16_is_merged_in_float32_and_the_rounding_told(tmp_path, capsys):
    dense = saved(tmp_path / "dense", head="lm", dtype=torch.bfloat16)
    assert tlm("compress", dense, "--rank", 3, "--out", tmp_path / "small", "-q") == 0
    report = told(capsys, "merge", tmp_path / "small", "--out", tmp_path / "plain")
    assert report["parity"]["relative"] <= 1e-5 < report["parity"]["rounding"] < 0.1
    for folder in ("small", "plain"):
        assert {t.dtype for t in tensors(tmp_path / folder).values()} == {torch.bfloat16}
    wide = told(capsys, "merge", tmp_path / "small", "--dtype", "float32", "--out", tmp_path / "w")
    assert "rounding" not in wide["parity"]
    assert {t.dtype for t in tensors(tmp_path / "w").values()} == {torch.float32}


def test_merging_a_dense_model_is_wrong_usage(room, tmp_path, capsys):
    assert tlm("merge", room / "dense", "--out", tmp_path / "out") == 2
    assert "nothing to merge" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_profile_has_a_column_for_each_model(room, tmp_path, compress, capsys):
    compress("--rank", 3)
    given = ("profile", room / "dense", "--against", tmp_path / "out", "--batch", 2)
    report = told(capsys, *given, "--seq-len", "8,16", "--latency", "--runs", 2)
    for name, entry in zip((room / "dense", tmp_path / "out"), report["models"], strict=True):
        assert entry["id"] == str(name) and entry["weight_bytes"] == 4 * entry["parameters"]
        assert sum(entry["by_role"].values()) == entry["parameters"]
        assert entry["parameters"] == checkpoint.load(name).num_parameters()
        assert [(r["seq_len"], r["batch"]) for r in entry["runs"]] == [(8, 2), (16, 2)]
        for each in entry["runs"]:
            assert sum(each["by_part"].values()) == each["flops"] > 0
            assert 0 < each["latency_ms"]["min"] <= each["latency_ms"]["median"]
    assert tlm(*given, "--seq-len", 8) == 0
    out = capsys.readouterr().out
    assert "FLOPs 2 x 8" in out and "latency" not in out
