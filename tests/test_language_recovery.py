"""Guards what recovery and distillation say of language models, and of texts that are cut."""

import math

import pytest
from conftest import sentences, word_tokenizer
from front_door import report_of, saved, tlm, told

from tlmtool.data.batching import joined_ids
from tlmtool.data.language import joined_split, lines_of
from tlmtool.measuring.perplexity import perplexity
from tlmtool.models import checkpoint

LONG = 12  # tokens; some of the texts have more


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A causal model, a compressed one of rank 2, and texts, some of which are long."""
    folder = tmp_path_factory.mktemp("recovery")
    saved(folder / "dense", "gpt2", "lm")
    lines = sentences(400)
    joined = [" ".join(lines[place : place + 1 + place // 4 % 4]) for place in range(0, 400, 4)]
    (folder / "text.txt").write_text("\n".join(joined) + "\n")
    words = ("--rank", 2, "--calibration", folder / "text.txt", "--out", folder / "small", "-q")
    assert tlm("compress", folder / "dense", *words) == 0
    return folder


def measured(folder, text) -> float:
    """The loss of a model in windows of its 64 positions, on what is held out of a text."""
    ids = joined_ids(word_tokenizer(), joined_split(text).held)
    return perplexity(checkpoint.load(folder), ids, window=64).mean


def test_recovery_tells_the_perplexity_of_all_three_models(room, tmp_path):
    """The compressed one is that of the same command without a recovery."""
    text, out = room / "text.txt", tmp_path / "out"
    words = ("--rank", 2, "--recover", 20, "--data", text, "--out", out)
    assert tlm("compress", room / "dense", *words, "-q") == 0
    found = report_of(out)
    recovery, plain = found["recovery"], report_of(room / "small")["quality"]
    assert recovery["metric"] == "loss"
    assert all(recovery[kind] == loss for kind, loss in recovery["loss"].items())
    assert recovery["loss"]["dense"] == pytest.approx(measured(room / "dense", text))
    assert recovery["loss"]["compressed"] == pytest.approx(plain["after"], rel=1e-5)
    assert recovery["loss"]["recovered"] == pytest.approx(measured(out, text))
    for kind, loss in recovery["loss"].items():
        assert recovery["perplexity"][kind] == pytest.approx(math.exp(loss))
    assert found["quality"]["after"] == recovery["loss"]["recovered"]
    row = f"| recovered | {recovery['recovered']:.4f} | {recovery['perplexity']['recovered']:.2f} |"
    assert row in (out / "README.md").read_text()


def test_recovery_tells_the_loss_of_a_masked_model_and_nothing_of_others(room, tmp_path, capsys):
    for head, name in (("lm", {"loss"}), ("base", set())):
        dense = saved(tmp_path / head, "bert", head)
        words = ("--rank", 2, "--recover", 2, "--data", room / "text.txt")
        found = told(capsys, "compress", dense, *words, "--out", tmp_path / f"{head}-out")
        assert found["recovery"].keys() & {"loss", "perplexity"} == name
        if name:
            assert found["recovery"]["loss"]["recovered"] == found["quality"]["after"]


def test_a_causal_model_that_learns_from_a_teacher_has_a_perplexity(room, tmp_path, capsys):
    text, out = room / "text.txt", tmp_path / "out"
    words = ("--teacher", room / "dense", "--data", text, "--steps", 2, "--out", out)
    found = told(capsys, "finetune", room / "small", *words)
    assert found["quality"]["before"] == pytest.approx(measured(room / "small", text), rel=1e-6)
    assert found["quality"]["after"] == pytest.approx(measured(out, text), rel=1e-6)
    split = joined_split(text)
    tokens = len(joined_ids(word_tokenizer(), split.rest))
    assert found["training"]["examples"] == tokens // 64  # windows of all its positions
    assert found["training"]["taught"] == "outputs"
    assert found["training"]["held_out"] == split.where


def test_without_a_causal_model_there_is_no_perplexity_to_check(room, tmp_path, capsys):
    encoder = saved(tmp_path / "bert")
    words = ("--teacher", encoder, "--data", room / "text.txt", "--train", "all", "--steps", 1)
    words = (*words, "--out", tmp_path / "out", "-q", "--fail-if", "perplexity>1")
    assert tlm("finetune", encoder, *words) == 2
    assert "is no causal language model: it has no perplexity" in capsys.readouterr().err


def test_texts_that_are_cut_are_counted(room, tmp_path, capsys):
    text = room / "text.txt"
    words = ("finetune", room / "dense", "--data", text, "--task", "clm", "--steps", 1, "--out")
    found = told(capsys, *words, tmp_path / "out", "--max-length", LONG)
    lengths = [
        len(word_tokenizer()(line)["input_ids"]) for line in lines_of(joined_split(text).rest)
    ]
    over = [length - LONG for length in lengths if length > LONG]
    said = f"{len(over)} of the {len(lengths)} training texts are cut at {LONG} tokens, which "
    said += (
        f"leaves out {sum(over):,} of {sum(lengths):,} tokens: --max-length N reads more of each"
    )
    assert over and found["warnings"].count(said) == 1
    whole = told(capsys, *words, tmp_path / "whole")
    assert not any("cut" in each for each in whole["warnings"])
