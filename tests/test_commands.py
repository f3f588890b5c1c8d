"""What commands write and print of compressed checkpoints is what their files hold and compute."""

import hashlib
import json
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import auto, output, pico, word_tokenizer
from front_door import TEXTS, furnished, report_of, same_weights, saved, tlm, told
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.commands import merge
from tlmtool.data.language import held_out
from tlmtool.measuring.counting import example_of
from tlmtool.measuring.losses import language_loss
from tlmtool.measuring.outputs import hidden_states, relative_error
from tlmtool.models import checkpoint
from tlmtool.models.surgery import plan_of, sites
from tlmtool.report.report import Report

HEADS = {"bert": "lm", "gpt2": "lm", "t5": "lm", "distilbert": "base"}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return furnished(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="module", params=HEADS)
def made(request, room):
    """A checkpoint of each kind, compressed."""
    family, head, name = request.param, HEADS[request.param], f"{request.param}-source"
    dense, out = saved(room / name, family, head), room / f"{family}-out"
    budget = ("--rank", 3, "--sites", "attention,ffn", "--calibration", room / "text.txt")
    assert tlm("compress", dense, *budget, "--out", out, "-q") == 0
    return SimpleNamespace(family=family, head=head, dense=dense, out=out, report=report_of(out))


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
    bits = {f"bits_per_weight_{key}": 8 * size[key] / p[key] for key in size}
    assert report["file_bytes"] == size | bits
    assert {s["site"]: s["decomposition"] for s in report["sites"]} == {
        site: json.loads(json.dumps(d.to_dict())) for site, d in plan_of(small).items()
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
    if made.family == "gpt2":
        return  # tests/test_causal_quality.py
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
    assert report["peak_memory_kind"] in ("rss", "cuda") or report["peak_memory_bytes"] is None
    assert report["peak_rss_bytes"] is None or report["peak_rss_bytes"] > 0
    assert {"tlm", "python", "torch", "transformers", "safetensors"} == report["versions"].keys()
    assert report["seed"] == 0 and (made.family == "gpt2" or report["warnings"] == [])
    assert report["recipe"] == yaml.safe_load((made.out / "recipe.yaml").read_text())
    if made.family == "gpt2":
        return  # tests/test_causal_quality.py
    used = held_out(TEXTS)[0]
    tokens = sum(len(word_tokenizer()(text)["input_ids"]) for text in used)
    expected = {"source": report["recipe"]["calibration"]["text"], "texts": 35, "tokens": tokens}
    assert report["calibration"] == expected and len(used) == 35


def test_the_card_names_its_base_and_its_code_runs(made, monkeypatch):
    card = (made.out / "README.md").read_text()
    assert f"\n`{made.dense.name}` with " in card.split("---\n")[2]
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])  # a folder has no id
    monkeypatch.chdir(made.out.parent)
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], space := {})
    model, ours = space["model"], checkpoint.load(made.out)
    assert type(model) is type(ours) and torch.equal(output(model), output(ours))
    assert space["tokenizer"]("the cat")["input_ids"] == word_tokenizer()("the cat")["input_ids"]
    plain, info = auto(made.family, made.head).from_pretrained(made.out, output_loading_info=True)
    assert not any(info.values()) and torch.equal(output(plain), output(ours))


@pytest.mark.parametrize("licence", ["mit", ["mit", "apache-2.0"]])
def test_the_license_is_kept_be_it_one_or_several(tmp_path, capsys, licence):
    pico("bert").save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text(f"---\nlicense: {json.dumps(licence)}\n---\n")
    words = ["compress", tmp_path / "m", "--rank", 2, "--calibration", "none"]
    report = told(capsys, *words, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == licence
    assert Report.read(report).data["model"]["license"] == report["model"]["license"] == licence


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
    assert report["model"]["base_model"] == made.dense.name  # not the factorized one between


def test_merge_writes_nothing_where_the_parity_fails(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(merge, "probe", lambda model, seed: torch.randn(5))
    assert tlm("merge", made.out, "--out", tmp_path / "plain") == 3
    assert "nothing was written" in capsys.readouterr().err and not [*tmp_path.iterdir()]


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
