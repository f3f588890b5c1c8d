"""Guards what compress and finetune say of a causal language model: perplexity, samples, alarms."""

import io
import math
from dataclasses import replace

import pytest
import torch
from conftest import CAUSAL, pico, sentences, word_tokenizer
from front_door import report_of, saved, tlm, told
from rich.console import Console

from tlmtool.data.batching import joined_ids
from tlmtool.data.language import joined_split, lines_of
from tlmtool.measuring.perplexity import perplexity
from tlmtool.measuring.rises import FEW, MOST, alarms, doubts, in_windows
from tlmtool.measuring.samples import LEAST, continued, looping
from tlmtool.models import checkpoint
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quality import Nats, Perplexity, Quality, Sample
from tlmtool.report.report import Report


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    saved(folder / "dense", "gpt2", "lm")
    (folder / "text.txt").write_text("\n".join(sentences(400)) + "\n")
    (folder / "prompts.txt").write_text("the cat\n\ndogs ran\na mat\nfar away\n")
    return folder


@pytest.fixture(scope="module")
def made(room):
    """A compressed gpt2."""
    words = ("--keep", 0.5, "--calibration", room / "text.txt", "--prompts", room / "prompts.txt")
    assert tlm("compress", room / "dense", *words, "--out", room / "small", "-q") == 0
    return report_of(room / "small")


def test_prompts_are_checked_before_any_weights_are_loaded(room, capfd):
    """A file that is missing, and a model that writes no text."""
    saved(room / "encoder", "bert", "lm")
    missing = ("--prompts", room / "none.txt", "--out", room / "never")
    assert tlm("compress", room / "dense", "--keep", 0.5, *missing, "--dry-run") == 4
    assert "none.txt does not exist" in capfd.readouterr().err
    given = ("--keep", 0.5, "--prompts", room / "prompts.txt", "--dry-run")
    assert tlm("compress", room / "encoder", *given) == 2
    assert "is no causal language model: leave out --prompts" in capfd.readouterr().err
    words = ("--task", "clm", "--data", room / "text.txt", *missing, "--dry-run")
    assert tlm("finetune", room / "dense", *words) == 4


def measured(folder, text) -> float:
    """The loss of a model in windows of its 64 positions."""
    ids = joined_ids(word_tokenizer(), text)
    return perplexity(checkpoint.load(folder), ids, window=64).mean


def test_perplexity_is_that_of_the_written_model_on_the_tail(room, made):
    found, split = made["quality"], joined_split(room / "text.txt")
    losses = [measured(room / name, split.held) for name in ("dense", "small")]
    assert [found["before"], found["after"]] == pytest.approx(losses, rel=1e-6)
    rise, nats = found["perplexity"], found["nats"]
    assert [rise["before"], rise["after"]] == pytest.approx([*map(math.exp, losses)], rel=1e-5)
    assert rise["ratio"] == pytest.approx(rise["after"] / rise["before"])
    assert nats["difference"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert nats["interval"][0] < nats["difference"] < nats["interval"][1]
    assert rise["interval"] == pytest.approx([*map(math.exp, nats["interval"])])
    assert found["tokens"] == len(joined_ids(word_tokenizer(), split.held)) - 1 < FEW
    assert any("fewer than 4,000 tell little" in each for each in made["warnings"])


def test_what_calibrates_is_before_what_measures(room, made):
    split, tokenizer = joined_split(room / "text.txt"), word_tokenizer()
    tokens = len(joined_ids(tokenizer, split.rest))
    assert made["calibration"] == {
        "source": str(room / "text.txt"),
        "windows": -(-tokens // 64),
        "window": 64,
        "tokens": tokens,
        "held_out": split.where,
    }
    assert made["recipe"]["calibration"]["max_length"] == 64


def test_fewer_tokens_calibrate_where_fewer_are_asked_for(room, tmp_path, capsys):
    words = ("--rank", 2, "--calibration", room / "text.txt", "--calibration-tokens", 105)
    words = (*words, "--max-length", 10, "--out", tmp_path / "out")  # windows are whole
    found = told(capsys, "compress", room / "dense", *words)
    assert found["calibration"]["windows"] == 10 and found["calibration"]["tokens"] == 100
    assert not any("to calibrate on" in each for each in found["warnings"])


def test_prompts_are_for_a_training_of_a_causal_language_model(room, tmp_path, capsys):
    words = ("--prompts", room / "prompts.txt", "--out", tmp_path / "out", "-q")
    assert tlm("finetune", room / "dense", "--task", "grammar", *words) == 2
    assert "--prompts goes with --task clm" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "none", "short"])
def test_without_a_text_of_its_own_the_shipped_one_is_read(room, tmp_path, capsys, text):
    (tmp_path / "short").write_text("the cat sat\non a mat")
    source = tmp_path / "short" if text == "short" else text
    words = () if text is None else ("--calibration", source)
    words = ("--rank", 2, *words, "--out", tmp_path / "out")
    found, own = told(capsys, "compress", room / "dense", *words), joined_split(None)
    assert found["calibration"]["held_out"] == own.where
    assert found["quality"]["before"] == pytest.approx(measured(room / "dense", own.held))
    few = [each for each in found["warnings"] if "to calibrate on" in each]
    assert len(few) == (0 if text == "none" else 1)


def test_what_is_learned_in_recovery_is_not_what_measures(room, tmp_path, capsys):
    text = room / "text.txt"
    words = ("--rank", 2, "--recover", 1, "--data", text, "--out", tmp_path / "out")
    found, split = told(capsys, "compress", room / "dense", *words), joined_split(text)
    window = 64  # its positions
    tokens = len(joined_ids(word_tokenizer(), split.rest))
    assert found["recovery"]["window"] == window
    assert found["recovery"]["windows"] == min(8, tokens // window)
    assert found["calibration"]["held_out"] == split.where
    assert found["quality"]["before"] == pytest.approx(measured(room / "dense", split.held))


def test_figures_are_checked_by_their_names(room, tmp_path, capsys):
    given = ("compress", room / "dense", "--rank", 2, "--calibration", "none", "--out")
    for k, name in enumerate(("perplexity", "quality.perplexity.after", "quality.nats.difference")):
        assert tlm(*given, tmp_path / f"{k}", "-q", "--fail-if", f"{name}>-9") == 3
    saved(tmp_path / "bert", "bert", "lm")
    capsys.readouterr()
    given = ("compress", tmp_path / "bert", *given[2:])
    assert tlm(*given, tmp_path / "x", "--fail-if", "quality.perplexity.after>1") == 2
    assert "is no causal language model" in capsys.readouterr().err


def test_finetune_measures_the_development_text_before_and_after(room, tmp_path, capsys):
    words = ("--task", "clm", "--data", room / "text.txt", "--steps", 2, "--lr", 1e-3)
    words = (*words, "--out", tmp_path / "out", "--prompts", room / "prompts.txt")
    found, split = told(capsys, "finetune", room / "dense", *words), joined_split(room / "text.txt")
    for name, end in ((room / "dense", "before"), (tmp_path / "out", "after")):
        assert found["quality"][end] == pytest.approx(measured(name, split.held), rel=1e-6)
    assert found["training"]["held_out"] == split.where
    assert found["training"]["examples"] == len(lines_of(split.rest))
    assert [each["prompt"] for each in found["quality"]["samples"]] == [
        *("the cat", "dogs ran", "a mat")
    ]


def test_of_a_new_model_there_is_no_perplexity_before(room, tmp_path, capsys):
    words = ("--from-config", "gpt2", "--set", "config.n_layer=1", "--set", "config.n_embd=8")
    words = (*words, "--set", "config.n_head=2", "--task", "clm", "--data", room / "text.txt")
    words = (*words, "--steps", 1, "--out", tmp_path / "out", "--tokens", "word")
    found = told(capsys, "finetune", *words)["quality"]
    assert found["before"] is None and found["perplexity"].keys() == {"after"}
    assert (
        all("before" not in each for each in found["samples"]) and "windows of 128" in found["what"]
    )


@pytest.mark.parametrize("family", CAUSAL)
def test_a_sample_is_what_generate_gives_without_sampling(family):
    """Whatever the generation config says, which `generate` follows."""
    model, tokenizer = pico(family, "lm"), word_tokenizer()
    rows = [joined_ids(tokenizer, text) for text in ("the cat", "dogs ran far away", "a mat")]
    plain = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": 3}
    model.config.eos_token_id = 3
    for row, new in zip(rows, continued(model, tokenizer, rows, 8), strict=True):
        expected = model.generate(torch.tensor([row]), **plain)[0, len(row) :].tolist()
        assert new == expected[: len(new)] and (len(new) == 8 or new[-1] == 3)
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=9.0)
    assert continued(model, tokenizer, rows, 8) == continued(model, tokenizer, rows, 8)


def test_a_loop_is_told_from_a_text_that_says_a_word_twice():
    for period in range(1, 11):
        loop = list(range(period)) * 12
        assert looping([97, 98, *loop[: max(LEAST, 3 * period)]])
        assert not looping(loop[: max(LEAST, 3 * period) - 1])
        assert not looping([*loop, 99])
    assert not looping([]) and not looping(list(range(32)))


def quality(difference: float, loops: bool = False, tokens: int = FEW) -> Quality:
    rise = Perplexity(before=20.0, after=20.0 * math.exp(difference))
    sample = Sample(prompt="a", before="b", after="a a a\x1b[31m", loops=loops)
    common = {"name": "loss", "what": "a loss", "before": 3.0, "after": 3.0 + difference}
    nats = Nats(difference=difference)
    return Quality(**common, tokens=tokens, perplexity=rise, nats=nats, samples=(sample,))


def test_alarms_are_of_a_loss_that_rose_far_and_of_loops():
    assert alarms(quality(MOST - 0.01)) == () == alarms(replace(quality(0.0), samples=None))
    (said,) = alarms(quality(MOST + 0.01))
    assert "rose by 0.51 nats, from a perplexity of 20.0 to 33.3" in said
    (said,) = alarms(quality(0.0, loops=True))
    assert said.startswith("1 of 1 samples")
    assert doubts(quality(0.0)) == [] and len(doubts(quality(0.0, tokens=FEW - 1))) == 1


def test_an_alarm_is_loud_in_the_report_and_at_the_top_of_the_card():
    from conftest import ending

    found = quality(1.0, loops=True)
    found = replace(found, alarms=alarms(found))
    warnings = (*(found.alarms or ()), "a calm warning")
    report = Report("compress", [Model(id="m"), found, ending(warnings=warnings)])
    report.table(Console(file=(page := io.StringIO()), width=80))
    said, card = page.getvalue(), report.card("m")
    assert said.count("WARNING: ") == 2 and said.count("warning: a calm warning") == 1
    assert card.count("> **WARNING: ") == 2 and card.index("WARNING") < card.index("```python")
    assert card.count("rose by 1.00 nats") == 1 and "after, in a loop" in said
    assert "\x1b" not in said + card and "+1.000" in said and "2.718" not in said


def test_one_window_has_no_interval_and_what_is_too_large_is_not_written():
    model = pico("gpt2", "lm")
    one = perplexity(model, [5, 6, 7, 8], window=8)
    huge = replace(one, sums=one.sums + 5000.0)
    found = in_windows(one, huge, 0)
    assert found.nats.interval is None and found.perplexity.after is None
    assert found.perplexity.ratio is None and alarms(found)
