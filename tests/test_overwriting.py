"""Killed at any write of `compress --overwrite`, `--out` is the old folder or the new one, whole,
and the next run leaves nothing else."""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from conftest import pico

import tlmtool
from tlmtool.cli import run
from tlmtool.files import writing

WRITING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.truncate")
WRITING += ("shutil.rmtree", "shutil.copyfile", "os.symlink", "exchange")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Of no tokenizer, so that a compression takes a moment; with files that travel."""
    folder = tmp_path_factory.mktemp("room") / "source"
    pico("bert").save_pretrained(folder)
    for name in ("merges.txt", "1_Pooling/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    return folder


def compress(source, out, rank, *more):
    site = "encoder.layer.0.attention.self.query"
    return run(
        [
            *map(
                str,
                ("compress", source, "--rank", rank, "--sites", site, "--out", out, "-q", *more),
            )
        ]
    )


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def events(below: Path, at: int | None, seen: list[str]) -> None:
    """From now on this process notes what it writes below a folder, and is killed before the write
    of a number."""

    def write(event: str) -> None:
        seen.append(event)
        if len(seen) - 1 == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            name, mode, flags = arguments
            to_write = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set("wax+") & set(
                mode or ""
            )
            if to_write and str(below) in str(name):
                write(f"open {os.path.basename(name)}")
        elif event in WRITING:
            write(event)

    real = writing.exchange

    def exchange(first: Path, second: Path) -> bool:
        write("exchange")
        return real(first, second)

    writing.exchange = exchange
    sys.addaudithook(hook)


def forked(work) -> int:
    """What a child process that does some work ends with: its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = work()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def overwritten(source, o, at: int | None, told: Path | None = None) -> int:
    """`compress --overwrite` at rank 3, killed before a write; the writes are told in a file."""
    seen: list[str] = []
    events(o.parent, at, seen)
    code = compress(source, o, 3, "--overwrite")
    if told:
        told.write_text("\n".join(seen))
    return code


def state_of(o: Path, old: dict) -> str:
    """'old', byte for byte, or 'new': a whole checkpoint of rank 3 with its report; or 'away'."""
    if not o.exists():
        return "away"
    if tree(o) == old:
        return "old"
    assert {"README.md", "recipe.yaml", "merges.txt", "1_Pooling"} <= set(os.listdir(o))
    (made,) = tlmtool.plan_of(tlmtool.load(o)).values()
    report = json.loads((o / "report.json").read_text())
    assert report["sites"][0]["decomposition"]["rank"] == made.rank == 3
    return "new"


@pytest.mark.parametrize("atomic", [True, False], ids=["exchanged", "renamed twice"])
def test_a_kill_at_any_write_leaves_the_old_or_the_new(source, tmp_path, monkeypatch, atomic):
    where = tmp_path / "where"
    o, told, found, model = where / "o", tmp_path / "told", [], pico("bert", seed=1)
    if not atomic:
        monkeypatch.setattr(writing, "exchange", lambda first, second: False)

    def next_run():
        shutil.rmtree(where / "o.compressing", ignore_errors=True)  # of the run that was killed
        tlmtool.save(model, o, source=source, overwrite=True)
        assert os.listdir(where) == ["o"] and state_of(o, tree(o)) == "old"

    next_run()
    old = tree(o)
    assert forked(lambda: overwritten(source, o, None, told)) == 0
    seen = told.read_text().split("\n")
    assert "open .o.lock" in seen and "exchange" in seen and seen[-1] == "os.remove"
    for at in range(0 if atomic else seen.index("exchange"), len(seen)):
        next_run()
        assert forked(lambda at=at: overwritten(source, o, at)) == -signal.SIGKILL
        found.append(state_of(o, old))
        if found[-1] == "away":  # between two renames: the next run puts the old folder back
            assert forked(lambda: compress(source, o, 3)) == 2
            assert state_of(o, old) == "old"
    assert compress(source, o, 3, "--overwrite") == 0
    assert os.listdir(where) == ["o"] and state_of(o, old) == "new"
    if atomic:  # old until the exchange, which is one step
        assert found == ["old"] * (seen.index("exchange") + 1) + ["new"] * found.count("new")
    assert set(found) == ({"old", "new"} if atomic else {"old", "away", "new"})
