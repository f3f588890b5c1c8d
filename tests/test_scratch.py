"""Temporary folders go with their run; what a killed run leaves is removed by the next one."""

import signal
import subprocess
import sys
import tempfile

import pytest

from tlmtool.files.scratch import LOCK, Scratch, sweep

HELD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tlmtool.files.scratch import Scratch
kept = Scratch()
print(kept.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_goes_with_its_run(place):
    one, two = Scratch(), Scratch()
    sweep()
    assert {each.name for each in place.iterdir()} == {
        each.name.rpartition("/")[2] for each in (one, two)
    }
    one.cleanup()
    del two
    assert not list(place.iterdir())


def test_what_a_killed_run_leaves_is_removed_and_what_runs_is_kept(place):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    words = [sys.executable, "-c", HELD, str(place)]
    with subprocess.Popen(words, **pipes) as other:
        name = other.stdout.readline().strip()
        sweep()
        assert [str(each) for each in place.iterdir()] == [name]
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert [str(each) for each in place.iterdir()] == [name]
    sweep()
    assert not list(place.iterdir())


def test_folders_of_others_are_left_alone(place):
    (place / "tlm-theirs").mkdir()
    (place / "other").mkdir()
    (place / "other" / LOCK).touch()
    sweep()
    assert len(list(place.iterdir())) == 2
