"""What is written is claimed by one run at a time; what a killed one left goes at the next; files
have the modes that the umask says."""

import errno
import fcntl
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
import test_overwriting
from conftest import pico
from test_overwriting import compress, forked, tree

import tlmtool
from tlmtool.cli import run
from tlmtool.data.state import Store
from tlmtool.failure import Failure, Usage
from tlmtool.files import writing
from tlmtool.files.claims import claimed, sweep_within
from tlmtool.files.writing import write_whole

source = test_overwriting.source  # its fixture


def left(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(name)


def test_leftovers_go_at_the_next_run_and_are_told(tmp_path, caplog):
    stale = [".o.abcd1234.unfinished", ".o.77.replaced", ".o.0123abcd.unfinished"]
    others = [".o.b.abcd1234.unfinished", ".oo.77.replaced", ".o.abc.unfinished", "o.77.replaced"]
    tlmtool.save(pico("bert"), tmp_path / "o")
    left(tmp_path, *stale, *others)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / ".o.99999999.unfinished").symlink_to(tmp_path / "precious")
    (tmp_path / stale[0] / "link").symlink_to(tmp_path / "precious")
    tlmtool.save(pico("bert", seed=1), tmp_path / "o", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted(["o", "precious", *others])
    assert (tmp_path / "precious" / "file").read_text() == "mine"
    assert len(caplog.messages) == 1 and "left by a run that was killed" in caplog.text


def test_what_was_moved_away_comes_back(tmp_path, caplog):
    left(tmp_path, ".o.12345678.replaced", ".o.abcd1234.unfinished")
    with claimed(tmp_path / "o"):
        assert (tmp_path / "o" / "config.json").read_text() == ".o.12345678.replaced"
        assert sorted(os.listdir(tmp_path)) == [".o.lock", "o"]
    assert "put back" in caplog.text and os.listdir(tmp_path) == ["o"]


def test_files_half_written_go_at_the_next_run(tmp_path):
    for name in (".stages.json.77.unfinished", ".other.json.77.unfinished"):
        (tmp_path / name).write_text("{")
    with claimed(tmp_path / "stages.json"):
        pass
    assert os.listdir(tmp_path) == [".other.json.77.unfinished"]
    with claimed(tmp_path):
        sweep_within(tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_second_run_is_refused_at_its_start(source, tmp_path, capsys, monkeypatch):
    """Also from another thread, and by another name of the folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", pytest.fail)
    refused = []

    def others():
        for words in (
            ["compress", source, "--rank", 2, "--out", tmp_path / "real"],
            ["merge", source, "--out", tmp_path / "link", "--overwrite"],
            ["overparam", source, "--growth", 2, "--out", tmp_path / "x" / ".." / "real"],
        ):
            refused.append(run([*map(str, words), "-q"]))
        with pytest.raises(Usage, match="another run is writing"):
            tlmtool.save(pico("bert"), tmp_path / "real")
        with pytest.raises(Usage, match="another run is writing"):
            tlmtool.run("compress", str(source), rank=2, out=str(tmp_path / "real"))

    with claimed(tmp_path / "link"), claimed(tmp_path / "real"):  # one's own is no hindrance
        thread = threading.Thread(target=others)
        thread.start()
        thread.join()
        assert refused == [2, 2, 2]
        assert capsys.readouterr().err.count("another run is writing") == 3
    assert sorted(os.listdir(tmp_path)) == ["link", "real"] and not os.listdir(tmp_path / "real")


def test_a_claim_ends_with_its_process_and_leaves_no_trace(tmp_path):
    def killed():
        with claimed(tmp_path / "o"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(killed) == -signal.SIGKILL and os.listdir(tmp_path) == [".o.lock"]
    with claimed(tmp_path / "o"):
        pass
    assert os.listdir(tmp_path) == []
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "new" / "deep" / "o"):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == []
    (tmp_path / ".o.lock").write_text("somebody's own")
    with claimed(tmp_path / "o"):
        pass
    assert (tmp_path / ".o.lock").read_text() == "somebody's own"


def test_of_those_who_come_at_once_one_has_it(tmp_path):
    """However the file of the lock comes and goes meanwhile."""
    holders, most, refused = 0, [], []

    def come():
        nonlocal holders
        for _ in range(60):
            try:
                with claimed(tmp_path / "o"):
                    holders += 1
                    most.append(holders)
                    holders -= 1
            except Usage:
                refused.append(1)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most and set(most) == {1} and len(most) + len(refused) == 480
    assert os.listdir(tmp_path) == []


def test_a_stray_rank_does_not_end_claims(tmp_path, monkeypatch):
    """Without WORLD_SIZE nobody else was launched."""
    monkeypatch.setenv("RANK", "1")
    left(tmp_path, ".o.abcd1234.unfinished")
    with claimed(tmp_path / "o"):
        assert os.listdir(tmp_path) == [".o.lock"]


def test_where_there_are_no_locks_nothing_is_swept(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    left(tmp_path, ".o.abcd1234.unfinished")
    tlmtool.save(pico("bert"), tmp_path / "o")
    assert sorted(os.listdir(tmp_path)) == [".o.abcd1234.unfinished", "o"]


def test_a_folder_that_cannot_be_put_in_place_is_kept(tmp_path, monkeypatch):
    """As of an overlay, whose lower folders cannot be renamed."""
    out, real = tlmtool.save(pico("bert"), tmp_path / "o"), os.rename
    before = tree(out)

    def rename(first, second):
        if Path(first) == out or Path(second) == out:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(first))
        return real(first, second)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(writing, "exchange", lambda first, second: False)
    for name in ("o.finished", "o.finished2"):
        with pytest.raises(Failure, match=rf"cross-device link\): it is .*{name}$"):
            tlmtool.save(pico("bert", seed=1), out, overwrite=True)
        assert tlmtool.load(tmp_path / name).config.model_type == "bert"
    assert tree(out) == before and len(os.listdir(tmp_path)) == 3


# ---- modes


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_modes_are_those_of_the_umask(source, tmp_path, mask):
    before = os.umask(mask)
    try:
        assert compress(source, tmp_path / "deep" / "o", 2) == 0
        write_whole(tmp_path / "report.json", "{}")
        write_whole(tmp_path / "plot.png", b"png")
        Store(tmp_path / "run", {}).save({})
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~mask, path


def test_a_file_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    write_whole(tmp_path / "link.png", b"new")
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").read_bytes() == b"new"


def test_a_picture_goes_to_an_ordinary_file_that_nobody_else_writes(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    os.mkfifo(tmp_path / "pipe.png")
    words = ["profile", "--attention", "softmax", "--seq-len", "8,16", "-q", "--plot"]
    assert run([*words, str(tmp_path / "pipe.png")]) == 2
    assert "is no ordinary file" in capsys.readouterr().err
    with claimed(tmp_path / "a.png"):
        thread = threading.Thread(
            target=lambda: codes.append(run([*words, str(tmp_path / "a.png")]))
        )
        codes: list[int] = []
        thread.start()
        thread.join()
    assert codes == [2] and "another run is writing" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["pipe.png"]
