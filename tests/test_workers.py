"""Processes of a sweep: what they start ends with them, where they print, their share of cores."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tlmtool.cli.explaining import explained
from tlmtool.commands.workers import Processes, share_of

SWEEP = "import sys; sys.path.insert(0, sys.argv[1]); import test_workers; test_workers.sweep()"


def launch(place: str) -> None:
    """The work of a point: it starts a process, notes it in a file, and waits for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(place, "new").write_text(str(child.pid))
    Path(place, "new").rename(Path(place, "child"))
    child.wait()


def sweep() -> None:
    """A sweep of one point, in the folder that the command names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    worker = Processes(explained, 2, Path(sys.argv[2]))
    worker.add("point", partial(launch, sys.argv[2]))
    try:
        worker.next()
    finally:
        worker.end()


def at_work(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_point_has_started_ends_with_the_sweep(number, tmp_path):
    words = [sys.executable, "-c", SWEEP, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(words) as process:
        while not (tmp_path / "child").exists():
            assert process.poll() is None
            time.sleep(0.1)
        child = int((tmp_path / "child").read_text())
        assert at_work(child)
        process.send_signal(number)
    for _ in range(300):
        if not at_work(child):
            return
        time.sleep(0.1)
    psutil.Process(child).kill()
    pytest.fail("it goes on without its sweep")


def nothing() -> None:
    """The work of a point that has none."""


def loud():
    """Stands for an import, with a library that prints."""
    print("imported", flush=True)
    return nothing


class Loud:
    """Prints when it is unpickled."""

    def __reduce__(self):
        return loud, ()


def test_what_imports_print_goes_to_the_log(tmp_path, capfd):
    worker = Processes(explained, 1, tmp_path)
    worker.add("point", Loud())
    assert worker.next() == ("point", None)
    assert capfd.readouterr() == ("", "")


def test_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [share_of(jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [share_of(jobs) for jobs in (1, 2, 4)] == [3, 3, 2]
