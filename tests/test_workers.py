"""What a process of a sweep has started ends with it, however the sweep ends."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tlmtool.cli.explaining import explained
from tlmtool.commands.workers import Processes

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
