"""The budget that `--max-loss-increase` finds is the smallest tried whose loss rises no further."""

import json

import compressions
import pytest
from compressions import arguments, made
from conftest import pico, word_tokenizer
from trainings import sentence

from tlmtool.cli import run
from tlmtool.compression import compress
from tlmtool.compression.fitting import fit

texts, models = compressions.texts, compressions.models  # its fixtures


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A model without a language-model head: its feature error falls with the budget."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    pico("bert").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def report(folder) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_the_smallest_budget_within_the_bound_is_taken(encoder, texts, tmp_path, capfd):
    out, alone, bound = tmp_path / "out", tmp_path / "alone", 0.2
    words = arguments(encoder, texts, out, "--max-loss-increase", str(bound))
    assert run(words) == 0
    found = report(out)
    dense, _, *tries = found["front"]["points"]
    within = [each for each in tries if each["rise"] <= bound]
    assert len(tries) == 6 and 0 < len(within) < 6 and dense["budget"] == "dense"
    smallest = min(within, key=lambda each: each["bytes"])
    assert [each for each in tries if each.get("taken")] == [smallest]
    assert min(each["rise"] for each in tries if each not in within) > bound
    assert found["quality"]["after"] == smallest["rise"] <= bound
    keep = str(found["recipe"]["compression"]["keep"])
    assert smallest["budget"] == f"keep {keep}"
    assert run(arguments(encoder, texts, alone, "--keep", keep)) == 0
    searched, single = made(out), made(alone)
    assert searched["report"].pop("front")["bound"] == bound
    assert searched == single
    capfd.readouterr()
    assert run([*words, "--resume"]) == 0
    assert "is done already" in capfd.readouterr().err
    assert run([*arguments(encoder, texts, out, "--max-loss-increase", "2"), "--resume"]) == 2
    assert "holds a finished run that was no search within 2" in sentence(capfd)


def test_a_search_that_was_stopped_repeats_no_try(encoder, texts, tmp_path, monkeypatch, capfd):
    whole, out, count = tmp_path / "whole", tmp_path / "out", [0]
    words = arguments(encoder, texts, out, "--max-loss-increase", "0.2")
    assert run(arguments(encoder, texts, whole, "--max-loss-increase", "0.2")) == 0

    def fitted(*given, **more):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return fit(*given, **more)

    monkeypatch.setattr(compress, "fit", fitted)
    assert run(words) == 130
    assert "2 of 6 tries are done" in capfd.readouterr().err
    assert run(words) == 2
    assert "holds an interrupted run: --resume goes on" in sentence(capfd)
    other = arguments(encoder, texts, out, "--max-loss-increase", "0.3")
    assert run([*other, "--resume"]) == 2
    assert "max_loss_increase 0.2, not 0.3" in sentence(capfd)
    assert run([*words, "--resume"]) == 0
    assert count[0] == 3 + 4 + 1  # the tries that are left, and the budget that is taken
    assert {each.name for each in tmp_path.iterdir() if each.is_dir()} == {"whole", "out"}
    found, once = made(out), made(whole)
    for each in (found, once):
        each["report"]["front"].pop("shared_seconds")
        for point in each["report"]["front"]["points"]:
            point.pop("seconds", None)
    assert found == once


def test_a_causal_model_has_an_interval(models, texts, tmp_path, capfd):
    out = tmp_path / "out"
    assert run(arguments(models["llama"], texts, out, "--max-loss-increase", "9")) == 0
    told = capfd.readouterr().out
    assert "at most 9; its 95 % interval is" in told and "the held-out text is small" in told


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--max-loss-increase", "1e-9"], "no budget stays within --max-loss-increase 1e-09"),
        (["--max-loss-increase", "1", "--keep", "0.5"], "leave out --keep"),
        (["--max-loss-increase", "1", "--target-size", "9KB"], "leave out --target-size"),
        (["--max-loss-increase", "1", "--dry-run"], "--dry-run cannot tell which budget"),
    ],
)
def test_what_cannot_be_is_refused(more, says, encoder, texts, tmp_path, capfd):
    assert run(arguments(encoder, texts, tmp_path / "out", *more)) == 2
    assert says in sentence(capfd) and not (tmp_path / "out").exists()
