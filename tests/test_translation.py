"""The task translation through the front door: what is trained, scored, saved and refused."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import pico
from pairs import random_model, sentences, tokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import tlmtool
from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.cli import run
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.modeling import adopt

FAST = ["--batch", "16", "--max-length", "24", "--device", "cpu", "-q"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for name, count in (("train", 400), ("val", 24)):
        for side, pair in zip(
            ("en", "de"), zip(*sentences(count, count), strict=True), strict=True
        ):
            (folder / f"{name}.{side}").write_text("\n".join(pair) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pico") / "model"
    random_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(model, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    words = arguments(model, data, out, "--epochs", 12, "--lr", "1e-2", "--beams", 2)
    assert run([*words, "--label-smoothing", "0.1"]) == 0
    return out


def arguments(model, data, out, *more) -> list[str]:
    words = ["finetune", str(model), "--task", "translation", "--data", str(data)]
    return [*words, "--languages", "en-de", "--out", str(out), *FAST, *map(str, more)]


def test_a_random_model_learns_to_translate(trained):
    report = json.loads((trained / "report.json").read_text())
    before, after = (report["scores"][when] for when in ("before", "after"))
    assert report["scores"]["name"] == "BLEU" and report["scores"]["better"] == "higher"
    assert after["BLEU"] == after["score"] > 90 > before["BLEU"]
    assert after["loss"] < before["loss"] and after["perplexity"] == math.exp(after["loss"])
    assert after["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    history = report["training"]["history"]  # of the loss, which costs less than BLEU
    assert report["training"]["metric"] == "dev loss" and len(history) == 12
    assert history[-1]["score"] == pytest.approx(after["loss"], abs=1e-6)
    card = (trained / "README.md").read_text()
    assert f"| BLEU | {before['BLEU']:.2f} | {after['BLEU']:.2f} |" in card
    assert f"beams 2, sacrebleu {after['signature']}" in card and "| dev loss |" in card


def test_what_was_trained_translates_by_plain_generate(trained):
    """The length, the beams and both ends are those of the checkpoint, not of transformers."""
    made, read = (
        AutoModelForSeq2SeqLM.from_pretrained(trained),
        AutoTokenizer.from_pretrained(trained),
    )
    kept = made.generation_config
    assert (kept.num_beams, kept.max_new_tokens, kept.bad_words_ids) == (2, 24, [[0]])
    assert (kept.eos_token_id, kept.pad_token_id, kept.forced_eos_token_id) == (2, 0, 2)
    short = made.generate(**read(["the cat sat on a mat"], return_tensors="pt"))
    assert read.batch_decode(short, skip_special_tokens=True) == ["die Katze saß auf einer Matte"]


def test_evaluate_gives_the_same_and_pairs_it_with_a_baseline(trained, model, data, capsys):
    words = ["evaluate", str(trained), "--task", "translation", "--data", str(data), "-q"]
    words += ["--languages", "en-de", "--max-length", "24", "--beams", "2", "--batch", "8"]
    assert run([*words, "--json", "--baseline", str(model)]) == 0
    found = json.loads(capsys.readouterr().out)
    report = json.loads((trained / "report.json").read_text())["scores"]["after"]
    assert found["models"][0]["score"] == pytest.approx(report["BLEU"])
    assert found["models"][0]["loss"] == pytest.approx(report["loss"], rel=1e-5)
    low, high = found["baseline"]["interval"]
    assert 0 < low <= found["baseline"]["difference"] <= high
    assert run([*words, "--samples", "5", "--fail-if", "BLEU<101"]) == 3
    said = capsys.readouterr().out
    assert "nrefs:1|case:mixed" in said and "higher is better" in said and "beams" in said


@pytest.mark.parametrize("family", ["bart", "t5", "t5-gated"])
def test_other_families_are_trained_and_start_where_their_config_says(family, data, tmp_path):
    start, out = tmp_path / "start", tmp_path / "out"
    made = pico(family, "lm")
    made.save_pretrained(start)
    tokenizer().save_pretrained(start)
    assert run(arguments(start, data, out, "--steps", 2, "--beams", 2)) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["scores"]["after"]["loss"] < report["scores"]["before"]["loss"]
    kept = AutoModelForSeq2SeqLM.from_pretrained(out).generation_config
    assert kept.decoder_start_token_id == made.config.decoder_start_token_id
    assert (kept.num_beams, kept.forced_eos_token_id) == (2, 2)


def test_a_converted_checkpoint_is_trained_and_keeps_its_kernels(model, data, tmp_path):
    made, out = random_model(), tmp_path / "out"
    sites = [path for path in attention_sites(made) if path.startswith("encoder")]
    attend(made, dict.fromkeys(sites, DimensionWise(mixer=3)))
    adopt(made).save_pretrained(tmp_path / "start")
    tokenizer().save_pretrained(tmp_path / "start")
    words = arguments(tmp_path / "start", data, out, "--steps", 8, "--strategy", "dynamic")
    assert run([*words, "--N", "1", "--n", "1", "--every", "3", "--beams", "1"]) == 0
    again = AutoModelForSeq2SeqLM.from_pretrained(out)
    assert list(tlmtool.plan_of(again)) == sites and again.generation_config.num_beams == 1
    assert len(json.loads((out / "report.json").read_text())["expansions"]) > 0


def test_smoothing_is_of_the_training_loss_alone(model, data, tmp_path):
    told = []
    for share in ("0", "0.5"):
        out = tmp_path / share
        more = ("--steps", 1, "--label-smoothing", share, "--evaluate-every", 1, "--beams", 1)
        assert run(arguments(model, data, out, *more)) == 0
        told.append(json.loads((out / "report.json").read_text())["training"]["history"][0])
    assert told[0]["score"] == pytest.approx(told[1]["score"], rel=1e-3)
    assert abs(told[0]["loss"] - told[1]["loss"]) > 0.05


def test_a_dry_run_and_a_study(model, data, tmp_path, capsys):
    words = arguments(model, data, tmp_path / "none", "--epochs", 2, "--dry-run", "--json")
    assert run(words) == 0
    step = json.loads(capsys.readouterr().out)["step"]
    lengths = [len(a.split()) + 1 for a, _ in sentences(400, 400)]
    assert "50 steps" in step["note"] and f"16 x {math.ceil(np.mean(lengths))} tok" in step["note"]
    assert not (tmp_path / "none").exists()
    out = tmp_path / "study"
    words = arguments(model, data, out, "--steps", 4, "--seeds", 1, "--beams", 1, "--every", 2)
    words += ["--arms", "dense,mpo-dynamic", "--N", "1", "--n", "1", "--lr-grid", "1e-3,1e-9"]
    assert run(words) == 0
    study = json.loads((out / "report.json").read_text())["study"]
    assert study["lr"] == 1e-3  # lower is better for the loss of the rates
    assert {r["metric"] for r in study["rates"]} == {"dev loss"}
    assert {(r["metric"], r["better"]) for r in study["results"]} == {("BLEU", "higher")}


def test_the_best_model_is_chosen_by_the_loss(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 9, "--keep-best", "--evaluate-every", 3, "--lr", "1e-2", "--beams", 1)
    assert run(arguments(model, data, out, *more)) == 0
    training = json.loads((out / "report.json").read_text())["training"]
    best = min(training["history"], key=lambda entry: entry["score"])
    assert training["chosen_step"] == best["step"] and training["examples"] == 360


def wrong_start(folder: Path) -> None:
    random_model(decoder_start_token_id=58100).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def no_end(folder: Path) -> None:
    random_model().save_pretrained(folder)
    bare = tokenizer(end=False)
    PreTrainedTokenizerFast(tokenizer_object=bare.backend_tokenizer).save_pretrained(folder)


def small(folder: Path) -> None:
    random_model(vocab_size=15).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def one_sided(folder: Path) -> None:
    pico("bert").save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (wrong_start, "decoder_start_token_id 58100, but there are 26 tokens"),
        (no_end, "has no end token, which a translation needs"),
        (small, "the tokenizer gives token 25; .* has 15 tokens"),
        (one_sided, "task translation does not fit"),
    ],
)
def test_a_model_that_cannot_translate_is_refused(make, says, data, tmp_path, capsys):
    make(tmp_path / "model")
    assert run(arguments(tmp_path / "model", data, tmp_path / "out", "--steps", 1)) == 2
    words = ["evaluate", str(tmp_path / "model"), "--task", "translation", "--data", str(data)]
    assert run([*words, "--languages", "en-de", "-q"]) == 2
    for said in capsys.readouterr().err.strip().split("\n"):
        assert re.search(says, said) and "Traceback" not in said


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--languages", "en"], 2, "a pair of languages such as en-de"),
        (["--languages", "en-fr"], 4, "has no files of fr"),
        (["--beams", "0"], 2, "at least 1"),
        (["--label-smoothing", "1"], 2, "below 1"),
        (["--teacher", "minilm"], 2, "goes with a labelled task or none, not with translation"),
        (["--task", "mlm"], 2, "--languages goes with --task translation"),
        (["--max-length", "200", "--data", "nowhere/at/all"], 4, "does not exist"),
    ],
)
def test_bad_input_is_one_sentence(model, data, tmp_path, capsys, more, code, says):
    assert run([*arguments(model, data, tmp_path / "out"), *more]) == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and said.count("\n") == 1


def test_without_languages_it_asks_and_without_sacrebleu_it_says_so_at_once(
    model, data, tmp_path, capsys, monkeypatch
):
    words = arguments(model, data, tmp_path / "out")
    at = words.index("--languages")
    assert run(words[:at] + words[at + 2 :]) == 2
    assert "give --languages de-en or en-de, source first" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    assert run([*words, "--data", "no/such/folder"]) == 5  # before it looks at anything else
    assert "pip install 'tlmtool[translation]'" in capsys.readouterr().err
    words = ["evaluate", str(model), "--task", "translation", "--data", str(data), "-q"]
    assert run([*words, "--languages", "en-de"]) == 5
    assert run([*words[:4], "-q"]) == 2 and "needs --data" in capsys.readouterr().err


def test_settings_of_a_checkpoint_that_do_not_fit_are_not_saved(data, tmp_path):
    """Sampling, and what beams alone know, would be refused by transformers at the end."""
    made = random_model()
    made.generation_config.update(num_beams=6, early_stopping=True, length_penalty=2.0)
    made.save_pretrained(tmp_path / "start")
    tokenizer().save_pretrained(tmp_path / "start")
    out = tmp_path / "out"
    assert run(arguments(tmp_path / "start", data, out, "--steps", 2, "--beams", 1)) == 0
    kept = AutoModelForSeq2SeqLM.from_pretrained(out).generation_config
    assert kept.num_beams == 1 and not kept.early_stopping
