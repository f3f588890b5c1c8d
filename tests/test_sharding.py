"""FSDP: what is trained lies in shards; everything else is as without it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.training import finetune

USUAL = ["--batch", "8", "--lr", "1e-3", "--max-length", "16", "--device", "cpu", "-q"]
USUAL += ["--dropout", "0", "--evaluate-every", "3"]
LAUNCHED = Path(__file__).with_name("launched.py")
FAMILIES = ("bert", "gpt2")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Two models, bert with factors, texts, and texts with labels."""
    folder = tmp_path_factory.mktemp("sharding")
    for family in FAMILIES:
        pico(family).save_pretrained(folder / family)
        word_tokenizer().save_pretrained(folder / family)
    factors = ("--keep", "0.5", "--calibration", "none", "--out", folder / "factors", "-q")
    assert run(["compress", str(folder / "bert"), *map(str, factors)]) == 0
    for name in ("texts", "labels"):
        (folder / name).mkdir()
    draw = torch.Generator().manual_seed(0)
    for name, count in (("train", 96), ("dev", 24)):
        orders = [torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(count)]
        texts = [" ".join(WORDS[i] for i in order) for order in orders]
        (folder / f"texts/{name}.txt").write_text("\n".join(texts) + "\n")
        rows = [f"{text}\t{order[0] % 2}" for text, order in zip(texts, orders, strict=True)]
        (folder / f"labels/{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def words_of(here: Path, out: str, model: str, *more: str) -> list[str]:
    return ["finetune", str(here / model), *more, *USUAL, "--out", str(here / out)]


def of(folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    report = json.loads((folder / "report.json").read_text())
    rows = report["training"]["history"] + [report["scores"]["after"]]
    figures = [row[key] for row in rows for key in ("loss", "score") if key in row]
    return load_file(folder / "model.safetensors"), figures


def test_two_processes_that_share_the_weights_learn_as_one(here):
    """Classes, tokens with tied weights, a decoder that computes its activations again, factors
    under a teacher; stopped, and gone on with."""
    labels = (
        "--task",
        "classification",
        "--data",
        str(here / "labels"),
        "--steps",
        "9",
        "--keep-best",
    )
    texts = ("--steps", "6", "--data", str(here / "texts"))
    jobs = {
        "labels": ("bert", *labels),
        "mlm": ("bert", "--task", "mlm", "--pack", *texts),
        "clm": ("gpt2", "--task", "clm", "--checkpointing", *texts),
        "taught": (
            "factors",
            "--teacher",
            str(here / "bert"),
            *texts[:3],
            str(here / "texts" / "train.txt"),
        ),
    }
    for name, job in jobs.items():  # of the same micro-batches
        assert run(words_of(here, f"one-{name}", *job, "--accumulate", "2")) == 0
    again = words_of(here, "again", *jobs["labels"], "--save-every", "2")
    commands = [[None, words_of(here, f"two-{name}", *job)] for name, job in jobs.items()]
    commands += [[7, again], [None, [*again, "--resume"]]]
    (here / "commands.json").write_text(json.dumps(commands))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp"]
    launch += ["--num_processes", "2", "--main_process_port", str(31500 + os.getpid() % 1000)]
    launch += [str(LAUNCHED), str(here / "commands.json")]
    made = subprocess.run(launch, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()[-2000:]
    shares = [float(share) for share in re.findall(r"share (\S+)", made.stderr.decode())]
    assert len(shares) == 10 and all(0.45 < share < 0.55 for share in shares)
    for name in jobs:
        one, two = of(here / f"one-{name}"), of(here / f"two-{name}")
        assert max(abs(a - b) for a, b in zip(one[1], two[1], strict=True)) <= 1e-5
    report = json.loads((here / "two-labels" / "report.json").read_text())
    assert report["training"]["processes"] == 2 and report["training"]["sharded"]
    whole, resumed = of(here / "two-labels")[0], of(here / "again")[0]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_shards_otherwise_and_strategies_under_it_are_refused(monkeypatch, capsys):
    absent = ["finetune", "no/model", "--task", "cola", "--data", "no/data"]  # nothing is read
    for (name, way), yes in zip(finetune.SHARDING.items(), ("true", "YES"), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, yes)
            assert run(absent) == 2
            assert f"not under {way}" in capsys.readouterr().err
            patch.setenv(name, "perhaps")
            assert run(absent) == 2
            assert f"{name}: invalid truth value" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "on")
    assert run(absent) == 4
    assert run([*absent, "--strategy", "dynamic"]) == 2
    assert "needs whole: use DDP" in capsys.readouterr().err


def test_cores_under_it_are_refused(here, monkeypatch, capsys):
    made = str(here / "cores")
    assert run(["overparam", str(here / "bert"), "--growth", "2", "--out", made, "-q"]) == 0
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    words = words_of(here, "x", "cores", "--task", "classification", "--data", str(here / "labels"))
    assert run(words) == 2
    assert "needs whole: use DDP" in capsys.readouterr().err
