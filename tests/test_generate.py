"""`tlm generate`: what models write, alone and side by side, with every kind of head."""

import json

import pytest
import torch
from conftest import pico, word_tokenizer
from folders import compressed, masked_bert

from tlmtool.cli import run
from tlmtool.measuring.generating import Text, Writer, kind_of
from tlmtool.models.checkpoint import load
from tlmtool.models.saving import save

CHAT = "{% for m in messages %}[CLS] {{ m['content'] }} [SEP]{% endfor %}"
PROMPT = ("--prompt", "the cat sat on a", "--tokens", "7")


def ended(made: torch.Tensor) -> Text:
    """What a model wrote after two tokens; token 0 has no text."""
    ids = made[0, 2:].tolist()
    return Text(ids, " ".join(f"word{k}" for k in ids if k), 1.0)


def folder_of(family, place, chat=None):
    """A pico language model with the word tokenizer."""
    folder = save(pico(family, "lm", eos_token_id=None, forced_eos_token_id=None), place)
    tokenizer = word_tokenizer(special=False)
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return folder


def report(capsys, *words) -> dict:
    capsys.readouterr()
    assert run(["generate", *map(str, words), "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_models_side_by_side(tmp_path, capsys):
    dense = folder_of("gpt2", tmp_path / "dense")
    small = compressed(dense)
    found = report(capsys, small, "--against", dense, *PROMPT)
    assert [each["id"] for each in found["generations"]] == [str(small), str(dense)]
    for each in found["generations"]:
        assert each["tokens"] == 7
        assert each["tokens_per_second"] == pytest.approx(each["tokens"] / each["seconds"])
    (sample,) = found["samples"]
    assert len(sample["texts"]) == 2 and 0 <= sample["same"] <= 7
    same = report(capsys, dense, "--against", dense, *PROMPT)["samples"][0]
    assert same["same"] == 7 and same["texts"][0] == same["texts"][1]
    assert sample["texts"][1] == same["texts"][0]


def test_an_answer_without_text_is_said(tmp_path, capsys, monkeypatch):
    folder = folder_of("gpt2", tmp_path / "dense")
    told = []
    for ids in ([0], [5, 6]):
        made = torch.tensor([[1, 2, *ids]])
        monkeypatch.setattr(Writer, "_continued", lambda self, inputs, tokens, m=made: ended(m))
        assert run(["generate", str(folder), *PROMPT, "-q"]) == 0
        told.append(capsys.readouterr().out)
    assert "(no text)" in told[0] and "ended its answer at once" in told[0]
    assert "(no text)" not in told[1] and "ended its answer" not in told[1]


def test_texts_are_those_of_the_most_likely_tokens(tmp_path):
    folder = folder_of("gpt2", tmp_path / "dense")
    model, tokenizer = load(folder), word_tokenizer(special=False)
    ids = tokenizer("the cat sat")["input_ids"]
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert Writer(model, tokenizer, False, 5).write("the cat sat").ids == ids[3:]


def test_a_seed_repeats_what_is_drawn(tmp_path, capsys):
    folder = folder_of("gpt2", tmp_path / "dense")
    drawn = [
        report(capsys, folder, *PROMPT, "--temperature", "9", "--seed", seed)["samples"][0]["texts"]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_chat_template_is_used_unless_raw(tmp_path, capsys):
    folder = folder_of("gpt2", tmp_path / "dense", CHAT)
    asked, raw = (report(capsys, folder, *PROMPT, *more) for more in ((), ("--raw",)))
    assert "chat template" in asked["how"] and "as they are" in raw["how"]
    model, tokenizer = load(folder), word_tokenizer(special=False)
    tokenizer.chat_template = CHAT
    own = Writer(model, tokenizer, False, 7).write("[CLS] the cat sat on a [SEP]").text
    assert asked["samples"][0]["texts"] == [own]


def test_a_file_of_prompts(tmp_path, capsys):
    folder = folder_of("gpt2", tmp_path / "dense")
    (tmp_path / "p.txt").write_text("the cat\n\na mat and dogs\n")
    found = report(capsys, folder, "--prompts", tmp_path / "p.txt", "--tokens", 3)
    assert [each["prompt"] for each in found["samples"]] == ["the cat", "a mat and dogs"]


def test_masks_are_filled_in(tmp_path, capsys):
    folder = masked_bert(tmp_path / "bert")
    found = report(capsys, folder, "--prompt", "the [MASK] sat on <mask>")
    (text,) = found["samples"][0]["texts"]
    assert text.count(" | ") == 1 and text.count(",") == 8
    assert run(["generate", str(folder), "--prompt", "no hole"]) == 2
    assert "write [MASK]" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoders_write_their_output(family, tmp_path, capsys):
    folder = folder_of(family, tmp_path / family)
    found = report(capsys, folder, *PROMPT)
    assert found["generations"][0]["tokens"] == 7


@pytest.mark.parametrize("family", ["llama", "opt", "qwen3"])
def test_compressed_decoders_write_with_their_cache(family, tmp_path, capsys):
    small = compressed(folder_of(family, tmp_path / "dense"))
    assert report(capsys, small, *PROMPT)["generations"][0]["tokens"] == 7


def test_a_prompt_that_is_too_long_is_refused(tmp_path, capsys):
    folder = folder_of("gpt2", tmp_path / "dense")
    assert run(["generate", str(folder), "--prompt", "the " * 70]) == 2
    assert "a prompt has 70 tokens" in capsys.readouterr().err
    assert report(capsys, folder, "--prompt", "the " * 60)["generations"][0]["tokens"] == 4


def test_a_model_without_a_head_is_refused_before_its_weights(tmp_path, capsys):
    folder = save(pico("bert"), tmp_path / "bert")
    word_tokenizer().save_pretrained(folder)
    assert run(["generate", str(folder)]) == 2
    assert "has no head that predicts tokens" in capsys.readouterr().err
    assert kind_of(pico("bert", "lm")) == "masked"


def test_the_table_fits_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder = folder_of("gpt2", tmp_path / "dense")
    assert run(["generate", str(folder), "--tokens", "30", "-q"]) == 0
    said = capsys.readouterr().out
    tables = said[: said.index("how ")]
    assert max(map(len, tables.splitlines()[1:])) <= 100 and "tokens/s" in tables
