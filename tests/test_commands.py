"""The four commands through the front door, on pico checkpoints: what they write and print."""

import hashlib
import json
import random
import re
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import CONFIGS, WORDS, auto, output, pico, word_tokenizer
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.cli import run
from tlmtool.commands import merge
from tlmtool.data.language import held_out
from tlmtool.measuring.counting import example_of
from tlmtool.measuring.losses import language_loss
from tlmtool.measuring.outputs import hidden_states, relative_error
from tlmtool.models import checkpoint
from tlmtool.models.surgery import plan_of, sites

HEADS = {"bert": "lm", "gpt2": "lm", "t5": "lm", "distilbert": "base"}
draw = random.Random(0)
TEXTS = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(40)]


def source(folder, family="bert", head="lm", dtype=torch.float32, shards="5GB"):
    """A dense checkpoint with its tokenizer."""
    pico(family, head).to(dtype).save_pretrained(folder, max_shard_size=shards)
    word_tokenizer().save_pretrained(folder)
    return folder


def tlm(*args):
    return run([*map(str, args)])


def told(capsys, *args, code=0):
    """The one JSON object on the stdout of a quiet command, which says nothing on stderr."""
    capsys.readouterr()
    assert tlm(*args, "--json", "-q") == code
    out, err = capsys.readouterr()
    assert err == "" or code
    found = json.loads(out)
    assert found["schema_version"] == 1 and found["verb"] == args[0]
    return found


def tensors(folder):
    return {
        k: v for f in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(f).items()
    }


def same_weights(a, b):
    ours, theirs = tensors(a), tensors(b)
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a dense bert, a text, and pairs of sentences with scores."""
    folder = tmp_path_factory.mktemp("room")
    source(folder / "dense")
    (folder / "text.txt").write_text("\n".join(TEXTS))
    pairs = [f"{a},{b},{k}" for k, (a, b) in enumerate(zip(TEXTS[:9], TEXTS[9:18], strict=True))]
    (folder / "pairs.csv").write_text("\n".join(pairs))
    return folder


@pytest.fixture(scope="module", params=HEADS)
def made(request, room):
    """A checkpoint of each kind, compressed."""
    family, head, name = request.param, HEADS[request.param], f"{request.param}-source"
    dense, out = source(room / name, family, head), room / f"{family}-out"
    budget = ("--rank", 3, "--sites", "attention,ffn", "--calibration", room / "text.txt")
    assert tlm("compress", dense, *budget, "--out", out, "-q") == 0
    report = json.loads((out / "report.json").read_text())
    return SimpleNamespace(family=family, head=head, dense=dense, out=out, report=report)


def test_parameters_bytes_and_sites_are_those_of_the_files(made):
    report, dense, small = made.report, checkpoint.load(made.dense), checkpoint.load(made.out)
    p, parts = report["parameters"], report["parameters"]["by_role"].values()
    assert p["before"] == dense.num_parameters() and p["after"] == small.num_parameters()
    assert p["sites_before"] == sum(part["before"] for part in parts)
    assert p["sites_after"] == sum(part["after"] for part in parts)
    assert p["before"] - p["after"] == p["sites_before"] - p["sites_after"] > 0
    assert p["keep"] == p["sites_after"] / p["sites_before"]
    size = {
        key: (f / "model.safetensors").stat().st_size
        for key, f in (("before", made.dense), ("after", made.out))
    }
    assert report["bytes"] == size
    assert {s["site"]: s["decomposition"] for s in report["sites"]} == {
        site: json.loads(json.dumps(form.to_dict())) for site, form in plan_of(small).items()
    }
    assert sum(part["sites"] for part in parts) == len(report["sites"]) == len(sites(dense)) - 1
    assert p["sites_after"] == sum(s["parameters"] for s in report["sites"])
    for each in report["sites"]:
        assert 0 < each["svd_weight_error"] < 1 and 0 < each["weight_error"] < 1
        assert 0 < each["best_output_error"] <= each["svd_output_error"] < 1
        assert 0 < each["output_error"] < 1


def test_flops_are_those_of_a_real_pass(made):
    for key, folder in (("before", made.dense), ("after", made.out)):
        model = checkpoint.load(folder)
        model.set_attn_implementation("eager")
        length = 128 if made.family == "t5" else 64
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**example_of(model, length, 1))
        assert made.report["flops"][key] == counter.get_total_flops()
        assert f"{length} tokens" in made.report["flops"]["note"]


def test_quality_is_that_of_the_written_model_on_texts_held_out(made):
    quality, held = made.report["quality"], held_out(TEXTS)[1]
    models, tokenizer = [checkpoint.load(f) for f in (made.dense, made.out)], word_tokenizer()
    if made.head == "base":
        states = [hidden_states(model, tokenizer, held) for model in models]
        assert quality["name"] == "feature_error"
        expected = [0.0, relative_error(states[1], states[0])]
    else:
        expected = [language_loss(model, tokenizer, held).mean for model in models]
        assert quality["name"] == "loss"
    assert [quality["before"], quality["after"]] == pytest.approx(expected, rel=1e-6)
    assert quality["texts"] == len(held) and f"{len(held)} held-out texts" in quality["what"]


def test_the_report_says_where_everything_comes_from(made):
    report, weights = made.report, (made.dense / "model.safetensors").read_bytes()
    assert report["model"]["sha256"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert report["model"]["class"] == type(checkpoint.load(made.dense)).__name__
    assert {"load", "measure", "plan", "fit", "save"} == report["seconds"].keys()
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert report["peak_memory_bytes"] is None or report["peak_memory_bytes"] > 0
    assert {"tlm", "python", "torch", "transformers", "safetensors"} == report["versions"].keys()
    assert report["seed"] == 0 and report["warnings"] == []
    assert report["recipe"] == yaml.safe_load((made.out / "recipe.yaml").read_text())
    used = held_out(TEXTS)[0]
    tokens = sum(len(word_tokenizer()(text)["input_ids"]) for text in used)
    expected = {"source": report["recipe"]["calibration"]["text"], "texts": 35, "tokens": tokens}
    assert report["calibration"] == expected and len(used) == 35


def test_the_card_names_its_base_and_its_code_runs(made, monkeypatch):
    card = (made.out / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == made.dense.name
    monkeypatch.chdir(made.out.parent)
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], space := {})
    model, ours = space["model"], checkpoint.load(made.out)
    assert type(model) is type(ours) and torch.equal(output(model), output(ours))
    assert space["tokenizer"]("the cat")["input_ids"] == word_tokenizer()("the cat")["input_ids"]
    plain, info = auto(made.family, made.head).from_pretrained(made.out, output_loading_info=True)
    assert not any(info.values()) and torch.equal(output(plain), output(ours))


def test_its_recipe_makes_it_again(made, tmp_path):
    again = tmp_path / "again"
    assert tlm("compress", "--recipe", made.out / "recipe.yaml", "--out", again, "-q") == 0
    assert same_weights(again, made.out)


def test_merge_writes_a_plain_checkpoint_that_computes_the_same(made, tmp_path, capsys):
    report = told(capsys, "merge", made.out, "--out", tmp_path / "plain")
    assert 0 <= report["parity"]["relative"] <= report["parity"]["tolerance"] == 1e-5
    assert "rounding" not in report["parity"]
    dense, small = checkpoint.load(made.dense), checkpoint.load(made.out)
    plain = auto(made.family, made.head).from_pretrained(tmp_path / "plain")
    assert type(plain) is type(dense) and not hasattr(plain.config, "tlm")
    counts = {"before": small.num_parameters(), "after": dense.num_parameters()}
    assert report["parameters"] == counts and plain.num_parameters() == counts["after"]
    worst = (output(plain) - output(small)).abs().max() / output(small).abs().max()
    assert worst <= report["parity"]["tolerance"]
    front = yaml.safe_load((tmp_path / "plain" / "README.md").read_text().split("---\n")[1])
    assert front["base_model"] == made.dense.name  # not the factorized one between


def test_merge_writes_nothing_where_the_parity_fails(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(merge, "probe", lambda model, seed: torch.randn(5))
    assert tlm("merge", made.out, "--out", tmp_path / "plain") == 3
    assert "nothing was written" in capsys.readouterr().err and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("budget", [("--rank", 3), ("--keep", 0.4), ("--energy", 0.7)])
def test_a_dry_run_predicts_the_costs_and_writes_nothing(room, tmp_path, capsys, budget):
    given = ("compress", room / "dense", *budget, "--calibration", room / "text.txt")
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
    p, flops, tokens = (
        report["parameters"],
        report["flops"],
        CONFIGS["bert"]["max_position_embeddings"],
    )
    assert flops["before"] - flops["after"] == 2 * tokens * (p["sites_before"] - p["sites_after"])


@pytest.fixture
def compress(room, tmp_path, capsys):
    """Compress the dense bert with these flags; {site: record}, and the report."""

    def go(*flags, out="out", calibration="none"):
        folder, text = tmp_path / out, ("--calibration", calibration)
        report = told(capsys, "compress", room / "dense", *text, *flags, "--out", folder)
        return {each["site"]: each for each in report["sites"]}, report

    return go


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


@pytest.mark.parametrize("method", ["svd", "cp", "tucker", "btd", "mpo"])
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
    forms = {site: each["decomposition"] for site, each in records.items()}
    names = {"0.self.query": ("svd", 4), "1.self.query": ("tucker", 4), "0.self.key": ("btd", 2)}
    for site, expected in names.items():
        layer, module = site.split(".", 1)
        form = forms[f"encoder.layer.{layer}.attention.{module}"]
        assert (form["name"], form["rank"]) == expected
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
        out.count(f"keeps {(1 + 4 + 8 + 32) / 32**2:.3f} of its parameters") == 8
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
    dense = source(tmp_path / "dense", shards="20KB")
    given = ("compress", dense, "--rank", 2, "--calibration", "none", "--max-shard-size", "20KB")
    report = told(capsys, *given, "--out", tmp_path / "out")
    files = [*dense.glob("*.safetensors")]
    assert len(files) > 2 and report["model"]["sha256"].keys() == {f.name for f in files}
    assert report["bytes"]["before"] == sum(f.stat().st_size for f in files)
    assert len([*(tmp_path / "out").glob("*.safetensors")]) > 2
    compress("--rank", 2, out="whole")
    assert same_weights(tmp_path / "out", tmp_path / "whole")


def test_bfloat16_is_merged_in_float32_and_the_rounding_told(tmp_path, capsys):
    dense = source(tmp_path / "dense", dtype=torch.bfloat16)
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
        assert entry["id"] == str(name) and entry["bytes"] == 4 * entry["parameters"]
        assert sum(entry["by_role"].values()) == entry["parameters"]
        assert entry["parameters"] == checkpoint.load(name).num_parameters()
        assert [(r["seq_len"], r["batch"]) for r in entry["runs"]] == [(8, 2), (16, 2)]
        for each in entry["runs"]:
            assert sum(each["by_part"].values()) == each["flops"] > 0
            assert 0 < each["latency_ms"]["min"] <= each["latency_ms"]["median"]
    assert tlm(*given, "--seq-len", 8) == 0
    out = capsys.readouterr().out
    assert "FLOPs 2 x 8" in out and "latency" not in out


@pytest.mark.parametrize("baseline", ["dense", "out"])
def test_evaluate_gives_the_interval_of_the_difference(made, room, capsys, baseline):
    other = {"dense": made.dense, "out": made.out}[baseline]
    task = {"bert": "mlm", "gpt2": "clm", "t5": "clm", "distilbert": "features"}[made.family]
    data = ["--data", room / "text.txt"] + (["--against", made.dense] * (task == "features"))
    for flags in (["--task", task, *data], ["--task", "similarity", "--data", room / "pairs.csv"]):
        report = told(capsys, "evaluate", made.out, *flags, "--baseline", other)
        (model,), second = report["models"], report["baseline"]
        assert model["id"] == str(made.out) and second["id"] == str(other)
        low, high = second["interval"]
        assert low <= second["difference"] == model["score"] - second["score"] <= high
        assert (low < high) == (baseline == "dense") or low == high == 0
        assert model["n"] == second["n"] == (9 if "similarity" in flags else len(TEXTS))
    if task == "features":
        assert second["difference"] != 0 or baseline == "out"
