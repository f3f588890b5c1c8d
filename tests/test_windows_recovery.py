"""Guards `compress --recover` of causal language models: what is read, learned and scored."""

from itertools import pairwise

import pytest
import torch
from conftest import WORDS, pico, sentences, word_tokenizer
from front_door import report_of, saved, tensors, tlm, told

from tlmtool.data.batching import joined_ids
from tlmtool.data.language import joined_split
from tlmtool.data.windows import LINE, to_learn, without
from tlmtool.failure import NotLoadable
from tlmtool.training.imitation import Imitation
from tlmtool.training.loop import Trainer
from tlmtool.training.recovery import fast_bfloat16

WINDOW = 16


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A causal model, and a text whose lines are all different."""
    folder = tmp_path_factory.mktemp("windows")
    saved(folder / "dense", "gpt2", "lm")
    lines = sentences(480)
    joined = [" ".join(lines[place : place + 4]) for place in range(0, 480, 4)]
    (folder / "text.txt").write_text("\n".join(joined) + "\n")
    return folder


def recovered(room, out, *words, steps=4):
    """The report of a recovery of the model of the room."""
    given = ("compress", room / "dense", "--rank", 2, "--recover-window", WINDOW, "-q")
    assert tlm(*given, "--recover", steps, "--out", out, *words) == 0
    return report_of(out)


@pytest.fixture
def read(monkeypatch):
    """The windows that a model is trained on."""
    kept, seen = Imitation.__init__, []

    def noting(self, model, teacher, rows, *args, **more):
        seen.extend(rows)
        kept(self, model, teacher, rows, *args, **more)

    monkeypatch.setattr(Imitation, "__init__", noting)
    return seen


def together(rows: list[list[int]]) -> str:
    return " | ".join(" ".join(map(str, row)) for row in rows)


@pytest.mark.parametrize("tokens", [64, 10**6])
def test_windows_are_whole_apart_and_of_the_whole_text(room, tokens):
    """Those of a text that is read in part are not together at its start."""
    tokenizer, text = word_tokenizer(), (room / "text.txt").read_text()
    found = to_learn(tokenizer, text, WINDOW, tokens, "text")
    assert {len(row) for row in found.rows} == {WINDOW} and found.length == WINDOW
    whole = together([joined_ids(tokenizer, text)])
    places = [whole.index(together([row])) for row in found.rows]
    assert places == sorted(places) and places[-1] > 0.7 * len(whole)
    assert min(b - a for a, b in pairwise(places)) >= 2 * WINDOW - 1
    assert len(found.rows) == min(tokens, whole.count(" ") + 1) // WINDOW


def test_a_text_without_a_window_is_refused():
    with pytest.raises(NotLoadable, match="short gives 3 tokens to train on, less than a window"):
        to_learn(word_tokenizer(), "the cat sat", WINDOW, 64, "short")


def test_what_measures_is_taken_out_of_a_text():
    long, other = "a line of more than forty characters, here", "another such line, as long as that"
    assert len(long) >= LINE > len(other)
    text = f"{other}\n  {long}\nheld\nscored\n{other} again\n"
    assert without(text, f"{long}\nheld out", ["scored"]) == f"{other}\nheld\n{other} again\n"
    assert without(f"begin {long} end", long, []) == "begin  end"  # one line holds all of it
    assert without(text, "", []) == text


def held_lines(text: str) -> list[str]:
    found = [line for line in joined_split(text).held.split("\n") if len(line) >= LINE]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("way", ["calibration", "data", "recover-data", "a copy"])
def test_no_text_that_is_scored_is_trained_on(room, tmp_path, read, way):
    text, copy = room / "text.txt", tmp_path / "copy.txt"
    copy.write_text(f"{WORDS[0]}\n{text.read_text()}")  # its tail begins elsewhere
    words = {"a copy": ("--calibration", text, "--recover-data", copy)}.get(way, (f"--{way}", text))
    found = recovered(room, tmp_path / "out", *words, steps=20)
    assert found["calibration"]["source"] == str(text)
    assert found["recovery"]["data"] == str(copy if way == "a copy" else text)
    tokenizer, seen = word_tokenizer(), together(read)
    for line in held_lines(text):
        ids = joined_ids(tokenizer, line)
        assert not any(together([ids[k : k + 8]]) in seen for k in range(len(ids) - 8))
    assert len(read) == found["recovery"]["windows"] > 20


def test_rows_that_are_scored_are_not_trained_on_either(room, tmp_path, read):
    lines = (room / "text.txt").read_text().split("\n")
    pairs = zip(lines[:30], lines[30:60], range(30), strict=True)
    rows = [f"{a}\t{b}\t{k % 7}" for a, b, k in pairs]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n")
    words = ("--data", tmp_path / "pairs.tsv", "--recover-data", room / "text.txt")
    found = recovered(room, tmp_path / "out", *words, steps=20)
    assert found["score"]["n"] == 3 and found["recovery"]["metric"] == "spearman"
    seen = together(read)
    for row in rows[9::10]:
        for text in row.split("\t")[:2]:
            assert together([joined_ids(word_tokenizer(), text)[:WINDOW]]) not in seen


def test_without_a_text_of_its_own_a_recovery_reads_the_shipped_one(room, tmp_path):
    found = recovered(room, tmp_path / "out")
    assert found["recovery"]["data"] == joined_split(None).source
    (tmp_path / "short.txt").write_text("the cat sat on a mat " * 6)
    again = recovered(room, tmp_path / "again", "--recover-data", tmp_path / "short.txt")
    said = f"{tmp_path / 'short.txt'} gives 32 tokens to train on, each of which is seen 16 times"
    seen = [[each for each in f["warnings"] if "to train on" in each] for f in (found, again)]
    assert seen == [[], [f"{said}: --recover-data FILE takes a longer text"]]


def test_the_divergence_falls_and_a_seed_repeats(room, tmp_path):
    words = ("--calibration", room / "text.txt", "--recover-lr", 5e-3)
    found = recovered(room, tmp_path / "a", *words, steps=40)["recovery"]
    course = [each["loss"] for each in found["course"]]
    assert course[-1] < 0.8 * course[0] and found["course"][-1]["step"] == 40
    assert found["tokens"] <= 40 * 8 * WINDOW and found["seconds"] > 0
    again = recovered(room, tmp_path / "b", *words, steps=40)["recovery"]
    assert found["precision"] == "bfloat16" or not fast_bfloat16(torch.device("cpu"))
    assert again["course"] == found["course"] and again["recovered"] == found["recovered"]
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    words = (*words, "--set", "recovery.precision=float32")
    one, two = (
        recovered(room, tmp_path / f"{seed}", *words, "--seed", seed, steps=40)["recovery"]
        for seed in (0, 1)
    )
    assert one["precision"] == "float32" and one["course"] != two["course"]
    assert [each["loss"] for each in one["course"]] == pytest.approx(course, rel=0.03)


@pytest.mark.parametrize("train", ["factors", "all"])
def test_layers_that_are_named_alone_are_trained(room, tmp_path, train):
    words = ("--calibration", room / "text.txt", "--recover-train", train)
    recovered(room, tmp_path / "plain", *words, "--recover-lr", 1e-30, steps=1)
    recovered(room, tmp_path / "out", *words, "--set", "recovery.layers=h.1.*")
    a, b = tensors(tmp_path / "plain"), tensors(tmp_path / "out")
    moved = {name for name in a if not torch.equal(a[name], b[name])}
    assert moved and all(".h.1." in name for name in moved)
    assert any("ln_1" in name for name in moved) == (train == "all")


def test_a_gpu_is_asked_late_for_its_losses_and_nothing_else_changes(
    room, tmp_path, capsys, monkeypatch
):
    words = ("--calibration", room / "text.txt")
    found = recovered(room, tmp_path / "a", *words, steps=21)["recovery"]
    made, read = Trainer.__init__, []

    def late(self, *args, **more):
        made(self, *args, **more)
        self.late, kept = 16, self.outcome.read
        self.outcome.read = lambda: (read.append(len(self.outcome.unread)), kept())[1]

    monkeypatch.setattr(Trainer, "__init__", late)
    assert (
        recovered(room, tmp_path / "b", *words, steps=21)["recovery"]["course"] == (found["course"])
    )
    assert read == [16, 5]
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    given = ("compress", room / "dense", "--rank", 2, "--recover", 21, "--out", tmp_path / "c")
    given = (*given, *words, "--recover-window", WINDOW, "--recover-lr", 1e30, "-q")
    assert tlm(*given) == 1
    assert "the loss is nan at step 3 of 21" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--recover-window", 65), 2, "--recover-window is 65; {dense} reads at most 64 tokens"),
        (("--recover-data", "{short}"), 4, "gives 5 tokens to train on, less than a window of 64"),
        (("--set", "recovery.layers=x.*"), 2, "names x.*, which is no module of this model"),
        (("--set", "recovery.layers=drop"), 2, "names no module with weights to train (factors)"),
        (("--set", "recovery.divergence=0"), 2, "are both 0: nothing is learned"),
    ],
)
def test_what_cannot_be_trained_is_refused(room, tmp_path, capsys, words, code, says):
    names = {"dense": room / "dense", "short": tmp_path / "short.txt"}
    names["short"].write_text("the cat sat on mat\n")
    words = [str(word).format(**names) for word in words]
    given = ("compress", room / "dense", "--rank", 2, "--out", tmp_path / "out", "-q")
    assert tlm(*given, "--recover", 1, *words) == code
    said = capsys.readouterr().err
    assert says.format(**names) in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [("--recover-data", "text"), ("--recover-window", 8), ("--set", "recovery.hidden=1")]
)
def test_other_models_learn_on_texts(room, tmp_path, capsys, words):
    dense, text = saved(tmp_path / "bert", "bert", "lm"), room / "text.txt"
    words = [text if word == "text" else word for word in words]
    given = ("--rank", 2, "--recover", 1, "--data", text, "--out", tmp_path / "out", "-q")
    assert tlm("compress", dense, *given, *words) == 2
    assert "is for causal language models" in capsys.readouterr().err


def test_a_checkpoint_learns_from_a_wider_teacher(room, tmp_path, capsys):
    saved(tmp_path / "wide", "gpt2", "lm", n_embd=48)
    words = ("--teacher", tmp_path / "wide", "--data", room / "text.txt", "--steps", 30)
    words = (*words, "--train", "all", "--batch", 8, "--max-length", WINDOW, "--lr", 1e-2)
    found = told(capsys, "finetune", room / "dense", *words, "--out", tmp_path / "out")
    assert found["training"]["unit"] == f"windows of {WINDOW} tokens"
    losses = [each["loss"] for each in found["training"]["history"]]
    assert losses[-1] < losses[0] and pico("gpt2").config.n_embd == 32
