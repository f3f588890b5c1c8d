"""`tlm run`, killed at any of its writes, goes on to what it would have made; nothing is left over.

One run copies its folder before every event that writes: what is on the disk then is what a SIGKILL
there leaves, since what a process has not yet written goes with it. From each copy, `--resume`.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import WORDS, pico, word_tokenizer
from trees import made

from tlmtool.cli import run

WRITING = ("os.", "shutil.", "tempfile.")
BEGUN = re.compile(r"\.(?:\d+|[a-z0-9_]{8})\.unfinished")


@pytest.fixture
def words(tmp_path) -> list[str]:
    """A pipeline of small stages: each kind of writing, training among them."""
    model, text = tmp_path / "model", tmp_path / "texts.txt"
    pico("bert", "lm").save_pretrained(model)
    word_tokenizer().save_pretrained(model)
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    small = {"rank": 2, "sites": "*.0.attention.self.query"}
    tune = {"task": "mlm", "data": str(text), "steps": 3, "batch": 4, "save_every": 1}
    stages = [
        {"name": "smaller", "verb": "compress", "model": str(model), "compression": small}
        | {"calibration": {"text": "none"}},
        {"name": "tuned", "verb": "finetune", "training": tune},
        {"name": "dense", "verb": "merge"},
        {"name": "scored", "verb": "evaluate", "evaluation": {"task": "mlm", "data": str(text)}},
    ]
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": stages}))
    return ["run", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "work" / "out"), "-q"]


def recorded(words: list[str], work: str, copies: str) -> None:
    """A run, with a copy of its folder before each event that writes below it."""
    copying = False

    def hook(event: str, given: tuple) -> None:
        nonlocal copying
        if copying or not (event == "open" or event.startswith(WRITING)):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & os.O_CREAT):
            return
        if any(isinstance(each, str) and each.startswith(work) for each in given):
            copying = True
            shutil.copytree(work, f"{copies}/{len(os.listdir(copies)):04}", symlinks=True)
            copying = False

    os.makedirs(work)
    os.makedirs(copies)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(hook)
    os._exit(run(words))


def seen(folder: Path) -> dict[str, str]:
    """{path: sum} of all that a later run can tell apart: a folder that was begun is never read,
    and a file that was begun may end anywhere, so that of these the names alone count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = BEGUN.sub(".unfinished", str(path.relative_to(folder)))
        inside, begun = ".unfinished/" in name, name.endswith(".unfinished")
        if not inside:
            whole = path.is_file() and not begun
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if whole else ""
    return found


def test_a_run_killed_at_any_write_goes_on_to_the_same(words, tmp_path, capsys):
    work, copies = tmp_path / "work", tmp_path / "copies"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tlmtool.commands.finetune", "transformers.models.bert"])
    process = context.Process(target=recorded, args=(words, str(work), str(copies)))
    process.start()
    process.join()
    assert process.exitcode == 0
    whole, kills = made(work), sorted(copies.iterdir())
    states = {json.dumps(seen(each)): each for each in kills}  # the last of those that are alike
    print(f"{len(kills)} writes, {len(states)} states")
    assert len(kills) > 60 and len(states) > 20
    for each in states.values():
        shutil.rmtree(work)
        each.rename(work)
        capsys.readouterr()
        assert run([*words, "--resume"]) == 0, (each.name, capsys.readouterr().err)
        assert made(work) == whole, each.name
