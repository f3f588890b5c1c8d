"""A sweep of four stages and a 2 x 2 matrix, killed at random moments, ends as one never killed.

TLM_KILLS=10 kills it ten times; TLM_JOBS=2 lets two processes at a time perform its points.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from pathlib import Path

import compressions
import pytest
from trees import made

from tlmtool.cli import run

KILLS, JOBS = int(os.environ.get("TLM_KILLS", "3")), os.environ.get("TLM_JOBS", "1")

inputs = compressions.inputs  # a fixture


@pytest.fixture
def words(inputs, tmp_path) -> list[str]:
    data = {"task": "mlm", "data": inputs["text"]}
    small = {"sites": "*.0.attention.self.query"}
    stages = [
        {"name": "smaller", "verb": "compress", "model": inputs["model"], "compression": small}
        | {"calibration": {"text": "none"}},
        {"name": "tuned", "verb": "finetune"}
        | {"training": data | {"steps": 8, "batch": 4, "save_every": 1}},
        {"name": "dense", "verb": "merge"},
        {"name": "scored", "verb": "evaluate", "evaluation": data},
    ]
    matrix = {"smaller.compression.rank": [2, 4], "tuned.training.lr": [1e-3, 1e-4]}
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": stages, "matrix": matrix}))
    out = str(tmp_path / "work" / "out")
    return ["run", str(tmp_path / "p.yaml"), "--out", out, "-q", "--jobs", JOBS]


def performed(words: list[str], said: str) -> None:
    """One run, in a process that has its imports. `said`: the file for what it prints."""
    opened = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(opened, stream.fileno())
    os._exit(run(words))


def test_a_sweep_killed_at_random_moments_goes_on_to_the_same(words, tmp_path):
    work, said = tmp_path / "work", tmp_path / "said.txt"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tlmtool.commands.finetune", "transformers.models.bert"])
    started = time.monotonic()
    whole_run = context.Process(target=performed, args=(words, str(said)))
    whole_run.start()
    whole_run.join()
    took, whole = time.monotonic() - started, made(work)
    assert whole_run.exitcode == 0 and sum(path.endswith("scored") for path in whole) == 4
    shutil.rmtree(work)
    moments, kills, states = random.Random(0), 0, []
    while kills < KILLS:
        process = context.Process(target=performed, args=([*words, "--resume"], str(said)))
        process.start()
        process.join(timeout=moments.uniform(0, took))
        if process.is_alive():
            process.kill()
            kills += 1
            states.append(len(list(work.rglob("*"))))
        process.join()
        if process.exitcode == 0:  # it was done before it could be killed: once more from the start
            assert made(work) == whole
            shutil.rmtree(work)
        else:
            assert process.exitcode == -9, said.read_text()[-2000:]
    print(f"{kills} kills, with {states} files and folders")
    assert run([*words, "--resume"]) == 0
    assert made(work) == whole
    assert not [path for path in Path(work).rglob(".*") if path.name != ".lock"]
