"""What tests of bad input share: a pico checkpoint, a copy to damage, a command to be refused."""

import random
import shutil

import pytest
from conftest import WORDS, pico, word_tokenizer

from tlmtool.cli import run


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense bert with its tokenizer, and beside it a text."""
    folder = tmp_path_factory.mktemp("room") / "dense"
    pico("bert", "lm").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=8)) for _ in range(16)]
    (folder.parent / "text.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def broken(dense, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(dense, tmp_path / "broken")


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a quiet command that must end with a code: its sentence, after a look for leftovers."""

    def go(code, *args, verb="compress"):
        before = sorted(tmp_path.rglob("*"))
        out = (
            () if verb in ("profile", "evaluate") or "--out" in args else ("--out", tmp_path / "o")
        )
        assert run([*map(str, (verb, *args, *out, "-q"))]) == code
        told, sentence = capsys.readouterr()
        assert told == "" and sentence.startswith("tlm: ") and sentence.count("\n") == 1, sentence
        assert "Traceback" not in sentence and "internal error" not in sentence
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return go


RANK = ("--rank", 2, "--calibration", "none")
