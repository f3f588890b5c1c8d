"""Text in full blocks: as it stands, or with an end token after each line; and warnings of cuts."""

import json

import conftest
import pytest
from conftest import word_tokenizer
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tlmtool.cli import run
from tlmtool.data.batching import cut, joined_ids, packed, together
from tlmtool.data.reading import joined, lines
from tlmtool.training.objectives import Language

TEXT = "\n = The cat = \n\nsat on a mat\n\n\n the dogs ran"


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """One token a character, line ends and blanks too."""
    names = ["[UNK]", "[END]", "\n", " ", "=", *map(chr, range(65, 123))]
    kind = models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer = Tokenizer(kind)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[END]")


def text_of(tokenizer, encoded) -> str:
    ids = [token for block in encoded["input_ids"] for token in block]
    return "".join(tokenizer.convert_ids_to_tokens(ids))


@given(some.text(alphabet="ab \n\x0b\u2028", min_size=1).filter(lambda text: len(text.split()) > 1))
def test_lines_are_the_file_as_it_stands(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "lines.txt"
    file.write_bytes(text.encode())
    assert together(lines(file)) == joined(file) == text
    assert lines(file, 1) == lines(file)[:1]


def test_blocks_hold_the_text_as_it_stands(letters, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    read = lines(tmp_path / "text.txt")
    assert text_of(letters, packed(letters, read, 9)) == TEXT[: len(TEXT) // 9 * 9]
    assert text_of(letters, packed(letters, read, 999)) == TEXT
    ended = packed(letters, ["ab", "c"], 99, eos=True)
    assert text_of(letters, ended) == "ab[END]c[END]"
    assert ended["special_tokens_mask"] == [[0, 0, 1, 0, 1]]


def test_training_reads_the_blocks_that_evaluating_reads(letters):
    model = conftest.pico("llama", "lm")
    texts = TEXT.splitlines(keepends=True)
    for eos in (False, True):
        found = Language(model, letters, texts, texts, 8, 0, True, eos)
        assert found.encoded["input_ids"] == packed(letters, texts, 8, eos)["input_ids"]
        assert found.many(texts) == len(found.encoded["input_ids"])


def test_a_cut_is_told_with_its_tokens():
    tokenizer = word_tokenizer()  # [CLS] and [SEP] round each text
    told = cut(tokenizer, ["the cat sat", "a mat", "the dogs ran far away"], 5, "texts")
    assert told == ["1 of the 3 texts are cut at 5 tokens, which leaves out 2 of 16 tokens"]
    assert not cut(tokenizer, ["the cat sat"], 5, "texts")
    assert cut(tokenizer, ["a"], 3, "pairs", ["the cat sat"])


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    conftest.pico("gpt2", "lm").save_pretrained(folder / "model")
    word_tokenizer(special=False).save_pretrained(folder / "model")
    (folder / "text.txt").write_text("\n\n".join(conftest.sentences(30)) + "\n\n")
    return folder


def evaluated(room, capsys, *more: str) -> dict:
    words = ["evaluate", str(room / "model"), "--task", "clm", "--data", str(room / "text.txt")]
    assert run([*words, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_adds_the_end_token_only_if_asked(room, capsys):
    sentences = conftest.sentences(30)
    many = sum(len(text.split()) for text in sentences)
    length = ["--max-length", "8"]
    plain = evaluated(room, capsys, "--pack", *length)
    ended = evaluated(room, capsys, "--pack", "--eos", *length)
    assert plain["models"][0]["blocks"] == many // 8
    assert ended["models"][0]["blocks"] == (many + len(sentences)) // 8
    assert "as it stands" in plain["what"]
    assert "ended by the end token" in ended["what"]
    assert not any("are cut" in each for each in plain["warnings"])


def test_evaluate_warns_of_lines_that_are_cut(room, capsys):
    told = evaluated(room, capsys, "--max-length", "8")["warnings"]
    [warning] = [each for each in told if "are cut at 8 tokens" in each]
    assert "--max-length N" in warning
    assert "--task perplexity" in warning
    told = evaluated(room, capsys, "--max-length", "64")["warnings"]
    assert not any("are cut" in each for each in told)


@pytest.mark.parametrize("eos", [[], ["--eos"]])
def test_finetune_trains_on_the_same_blocks(room, tmp_path, capsys, monkeypatch, eos):
    seen = []

    def kept(tokenizer, texts, *more):
        seen.append((texts, more))
        return packed(tokenizer, texts, *more)

    monkeypatch.setattr("tlmtool.training.objectives.packed", kept)
    text = "\n\n".join(conftest.sentences(60)) + "\n\n"
    (tmp_path / "text.txt").write_text(text)
    words = ["finetune", str(room / "model"), "--task", "clm", "--data", str(tmp_path / "text.txt")]
    words += ["--pack", *eos, "--max-length", "8", "--steps", "2", "--out", str(tmp_path / "out")]
    assert run([*words, "--json", "-q", "--keep-best"]) == 0
    found = json.loads(capsys.readouterr().out)
    (train, (length, ended)), (held, _) = seen[0], seen[-1]
    assert (length, ended) == (8, bool(eos))
    blocks = packed(word_tokenizer(special=False), held, 8, ended)["input_ids"]
    assert found["training"]["dev"] == len(blocks)
    if eos:
        assert all(each.strip() == each != "" for each in train)
    else:
        assert text.startswith(together(train))
        assert text.endswith(together(held))


def test_eos_goes_with_pack(room, capsys):
    words = ["evaluate", str(room / "model"), "--task", "clm", "--eos"]
    assert run(words) == 2
    assert "give --pack too" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [3, 40, 10_000])
def test_a_limit_reads_the_first_tokens_of_the_whole_text(limit):
    short, long = "a b c " * 3000, "incomprehensibility " * 3000  # more and fewer than it guesses
    for text in (short, long):
        whole = joined_ids(word_tokenizer(), text)
        assert joined_ids(word_tokenizer(), text, limit) == whole[:limit]
