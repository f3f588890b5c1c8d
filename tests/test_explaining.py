"""Errors that no command made a sentence of: each is one sentence and an exit code all the same."""

import errno
import json

import pytest
from conftest import pico, word_tokenizer
from safetensors import SafetensorError
from test_terminal import shown

from tlmtool.cli import run
from tlmtool.data.batching import encode, encode_targets, packed
from tlmtool.failure import NotLoadable


class PanicException(BaseException):  # as pyo3 names what Rust raises
    pass


FULL = "the disk is full"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PanicException("no entry found"), 4, "a library failed on its input: no entry"),
        (SystemExit(3), 1, "a library ended the run: SystemExit 3"),
        (GeneratorExit(), 1, "internal error: GeneratorExit: no message"),
        (EOFError("ran out"), 1, "internal error: EOFError: ran out"),
        (RecursionError("maximum"), 4, "nests too deep to be read"),
        (RuntimeError("Could not determine home directory."), 2, "a path begins with ~"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "w"), 1, "quota of disk space is used up: w"),
        (OSError(errno.EFBIG, "File too large"), 1, "raise the limit (ulimit -f)"),
        (OSError(errno.EROFS, "x", "w"), 1, "the file system is read-only: w"),
        (OSError(errno.EIO, "Input/output error", "w"), 1, "the device failed to read or write: w"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "raise the limit (ulimit -n)"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), 1, "No usable tempora"),
        (SafetensorError('Os { code: 28, kind: StorageFull, message: "" }'), 1, FULL),
        (SafetensorError("I/O error: File too large (os error 27)"), 1, "ulimit -f"),
        (RuntimeError("write failed: Disk quota exceeded"), 1, "quota of disk space is used up"),
        (RuntimeError("[enforce fail at x.cc:1] . unexpected pos 64 vs 0"), 1, "written whole"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), 1, "written whole"),
    ],
)
def test_every_error_is_a_sentence_and_a_code(commands, capsys, error, code, says):
    commands.answer = error
    assert run(["merge", "m", "-q"]) == code
    out, err = capsys.readouterr()
    sentence = err.replace("noise of a library\n", "")
    assert says in sentence and sentence.startswith("tlm: ") and sentence.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("raised", [PanicException("runs away"), Exception("WordLevel error")])
@pytest.mark.parametrize("encoding", [encode, packed, encode_targets])
def test_a_tokenizer_that_fails_on_a_text_is_named(raised, encoding):
    class Broken(type(word_tokenizer())):
        def __call__(self, *_, **__):
            raise raised

    tokenizer = word_tokenizer()
    tokenizer.__class__, tokenizer.name_or_path = Broken, "out/m8"
    with pytest.raises(NotLoadable, match="the tokenizer out/m8 fails on a text: "):
        encoding(tokenizer, ["a cat"], max_length=8)


def test_a_pattern_that_runs_away(tmp_path, capsys):
    """A real panic of Rust, in a tokenizer that loads."""
    pico("bert", "lm").save_pretrained(tmp_path / "m")
    word_tokenizer().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+c"}, "behavior": "Isolated"}
    tree = json.loads(file.read_text()) | {"pre_tokenizer": {**split, "invert": False}}
    file.write_text(json.dumps(tree))
    (tmp_path / "t.txt").write_text("the cat sat\n" * 20 + "a" * 40 + "!\n")
    args = ["compress", "--rank", 2, "--calibration", tmp_path / "t.txt", "--out", tmp_path / "o"]
    assert run([*map(str, [args[0], tmp_path / "m", *args[1:]])]) == 4
    assert "fails on a text" in shown(capsys)[1].rstrip("\n").split("\n")[-1]
    assert not (tmp_path / "o").exists()
