"""What leaves for the terminal: nothing that a terminal obeys, and no traceback where streams are
closed or full, the environment is odd, or an error is no Exception."""

import errno
import json
import logging
import os
import re
import sys
import warnings

import pytest
from conftest import ending, pico, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from tlmtool.cli import run
from tlmtool.data.batching import encode, encode_targets, packed
from tlmtool.failure import NotLoadable
from tlmtool.report.parts.ending import Note
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.sites import Site, Sites
from tlmtool.report.progress import Bars
from tlmtool.report.report import Report

OBEYED = "\x00\x07\x08\r\x1b\x1b[2J\x7f\x80\x9b31m\x9d\u202e\u2066\u2069"
ALLOWED = re.compile("[\n\t -~\xa0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff]*")


def shown(capsys):
    """(stdout, stderr), nothing in which is obeyed."""
    told = capsys.readouterr()
    assert all(ALLOWED.fullmatch(each) for each in told), told
    return told


def hostile():
    """Parts of a report with such characters in every place that takes text."""
    figures = {"shape": (1, 1), "parameters": 1, "keep": 1.0}
    figures |= {"weight_error": 0.0, "svd_weight_error": 0.0}
    site = Site(site=OBEYED, role=OBEYED, decomposition={"name": OBEYED}, **figures)
    return [
        Model(id=OBEYED, class_=OBEYED, out=OBEYED, sha256={OBEYED: OBEYED}),
        Sites(sites=(site,), left_dense=()),
        Note(note=OBEYED),
        ending(warnings=(OBEYED, "[red]\ud800"), versions={OBEYED: OBEYED}),
    ]


@pytest.mark.parametrize("flags", [[], ["-v"], ["--json"]])
def test_nothing_in_a_report_or_a_log_is_obeyed(commands, capsys, flags):
    def answer(recipe):
        print(OBEYED)
        logging.getLogger("tlmtool").warning("%s [red]", OBEYED)
        warnings.warn(OBEYED, stacklevel=1)
        with Bars() as bars:
            bars(OBEYED, 1, 2, OBEYED)
            bars.line(OBEYED)
        return Report("merge", hostile())

    commands.answer = answer
    assert run(["merge", "m", *flags]) == 0
    out, err = shown(capsys)
    assert "[red]" in err and "\\u001b" in err
    if "--json" in flags:
        assert json.loads(out)["warnings"][0] == OBEYED
    else:
        assert "[red]" in out and "\\u001b" in out


@pytest.mark.parametrize("error", [NotLoadable, OSError, ZeroDivisionError, Warning, SystemExit])
def test_nothing_in_an_error_is_obeyed(commands, capsys, error):
    commands.answer = error(OBEYED)
    assert run(["merge", "m", "-v"]) in (1, 4)
    assert "\\u001b" in shown(capsys)[1]
    assert run(["merge", OBEYED.replace("\0", "")]) == 2
    assert run([OBEYED]) == 2
    assert run(["merge", "m", f"--{OBEYED}"]) == 2
    shown(capsys)


def test_bars_on_a_terminal_show_names_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    logging.getLogger("tlmtool").setLevel(logging.INFO)
    with Bars() as bars:
        bars("[red]\x1b]0;x\x07", 1, 2, "[/blue]\x9b")
        bars.line("[/blue]\x1b]0;x\x07")
    err = capsys.readouterr().err
    assert "[red]" in err and "[/blue]" in err
    assert "\x1b]0" not in err and "\x07" not in err and "\x9b" not in err


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(max_size=20) | st.text(OBEYED, max_size=8))
def test_json_holds_what_it_held(text):
    report = Report("profile", [Note(note=text), Model(id=text)])
    assert json.loads(report.to_json())["note"] == text
    assert ALLOWED.fullmatch(report.to_json()) and ALLOWED.fullmatch(report.card(text))


# ---- standard streams


@pytest.fixture
def streams():
    """The streams of this process, which a run may replace."""
    kept = sys.stdin, sys.stdout, sys.stderr
    yield
    sys.stdin, sys.stdout, sys.stderr = kept


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_closed_streams_take_everything(commands, streams, capfd, flags):
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, None)
    assert run(["merge", "m", *flags]) == 0
    assert run(["merge"]) == 2
    assert run(["--help"]) == 0
    assert len(commands.recipes) == 1 and capfd.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("args", [["merge", "m"], ["merge", "m", "--json"], ["--help"]])
def test_a_full_stdout_is_one_sentence(commands, streams, capfd, args):
    with open("/dev/full", "w") as full:
        sys.stdout = full
        assert run(args) == 1
        full.write("more")  # dropped, so that the end of Python does not complain of it
    err = capfd.readouterr().err
    assert err.endswith("tlm: the output cannot be printed: No space left on device\n")
    assert "Traceback" not in err and "ignored" not in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_stderr_changes_no_result(commands, streams, capfd):
    with open("/dev/full", "w") as full:
        sys.stderr = full
        assert run(["merge", "m", "--json"]) == 0
        assert run(["merge"]) == 2
        full.write("more")
    assert json.loads(capfd.readouterr().out)["schema_version"] == 2


# ---- the environment


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "x"}, "the variable WORLD_SIZE is 'x': it should be an integer"),
        ({"WORLD_SIZE": ""}, "the variable WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "0"}, "it should be an integer of at least 1"),
        ({"RANK": "1e3"}, "the variable RANK is '1e3'"),
        ({"LOCAL_RANK": "\x1b"}, "the variable LOCAL_RANK is '\\x1b'"),
        ({"MASTER_PORT": "tcp"}, "the variable MASTER_PORT is 'tcp'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not: launch with torchrun"),
        ({"LOCAL_RANK": "0", "RANK": "0"}, "LOCAL_RANK is set and MASTER_PORT is not"),
    ],
)
@pytest.mark.parametrize("args", [["merge", "m"], ["run", "nowhere.yaml"]])
def test_variables_that_no_launcher_sets(commands, capsys, monkeypatch, environment, says, args):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(args) == 2
    told = shown(capsys)[1]
    assert says in told and told.count("\n") == 1 and not commands.recipes


def test_ranks_are_below_the_size_and_a_lone_process_speaks(commands, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert run(["merge", "m"]) == 0
    assert "merge" in shown(capsys)[0]
    more = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    assert run(["merge", "m"]) == 2
    assert "RANK is 3 and WORLD_SIZE 2" in shown(capsys)[1]
    monkeypatch.setenv("RANK", "1")
    assert run(["merge", "m"]) == 0
    assert shown(capsys)[0] == ""


def test_a_working_directory_that_is_gone(commands, capsys, monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(["merge", "m"]) == 2
    assert shown(capsys)[1] == "tlm: the working directory is gone: change to one that is there\n"
    monkeypatch.chdir(tmp_path)


def test_a_width_that_is_no_number(capsys, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "wide")
    monkeypatch.setenv("COLUMNS", "wide")
    assert run(["merge", "--help"]) == 0


# ---- errors that no command made a sentence of


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
