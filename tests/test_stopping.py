"""SIGTERM and SIGHUP end a run as Ctrl-C does: one sentence, its code, and nothing left behind."""

import signal
import threading
import time

import pytest
from conftest import pico

from tlmtool.cli import run, stopping
from tlmtool.files import writing
from tlmtool.models import saving

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "dense"
    pico("bert", "lm").save_pretrained(folder)
    return folder


@pytest.fixture
def default():
    """The dispositions that a program of a shell has, whatever runs the tests; they must stay."""
    usual = dict.fromkeys(CODES, signal.SIG_DFL) | {"SIGINT": signal.default_int_handler}
    kept = {name: signal.signal(getattr(signal, name), usual[name]) for name in CODES}
    yield
    found = {name: signal.getsignal(getattr(signal, name)) for name in CODES}
    for name, handler in kept.items():
        signal.signal(getattr(signal, name), handler)
    assert found == usual


def compress(dense, out):
    return run([*map(str, ("compress", dense, "--rank", 2, "--calibration", "none", "--out", out))])


@pytest.mark.parametrize("name", CODES)
def test_a_signal_in_the_save_leaves_no_result(dense, tmp_path, monkeypatch, capsys, default, name):
    """Nor does a second one while the unfinished folder is removed. What is fitted is kept."""
    number, removed = getattr(signal, name), writing.shutil.rmtree

    def rmtree(*args, **kwargs):
        signal.raise_signal(number)
        return removed(*args, **kwargs)

    monkeypatch.setattr(saving, "copy_side_files", lambda *_: signal.raise_signal(number))
    monkeypatch.setattr(writing.shutil, "rmtree", rmtree)
    assert compress(dense, tmp_path / "o") == CODES[name]
    last = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    first = "tlm: interrupted" if name == "SIGINT" else f"tlm: ended by {name}"
    assert last.startswith(f"{first}; 8 of 8 layers are done: go on with tlm compress ")
    assert last.endswith(" --resume")
    assert [each.name for each in tmp_path.iterdir()] == ["o.compressing"]


def test_a_signal_is_no_exception_that_a_command_could_take_for_one(default):
    with pytest.raises(BaseException, match="ended by SIGTERM") as caught, stopping.stopping():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("taken for a failure of the work")
    assert not isinstance(caught.value, Exception)


def test_a_later_signal_ends_what_the_first_did_not(default, monkeypatch):
    """As where a library swallowed it."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with stopping.stopping():
        for now, raises in ((100.0, True), (101.0, False), (150.0, True)):
            clock[0] = now
            try:
                signal.raise_signal(signal.SIGTERM)
            except BaseException:
                assert raises
            else:
                assert not raises


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_signal_that_is_ignored_or_handled_stays_so(default, handler):
    kept = signal.signal(signal.SIGHUP, handler)
    try:
        with stopping.stopping():
            assert signal.getsignal(signal.SIGHUP) is handler
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_a_thread_runs_without_handlers(default):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(["--version"])))
    thread.start()
    thread.join()
    assert found == [0]
