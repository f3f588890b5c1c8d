"""What is printed: no control characters, and no traceback where streams are closed or full, or the
environment is odd."""

import json
import logging
import os
import re
import sys
import warnings

import pytest
from conftest import ending
from hypothesis import given, settings
from hypothesis import strategies as st

from tlmtool.cli import run
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
