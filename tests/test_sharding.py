"""FSDP: what is trained lies in shards; everything else is as without it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from conftest import WORDS, of_two, pico, word_tokenizer
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.failure import Usage
from tlmtool.recipe.building import build
from tlmtool.training import finetune

USUAL = ["--batch", "8", "--lr", "1e-3", "--max-length", "16", "--device", "cpu", "-q"]
USUAL += ["--dropout", "0", "--evaluate-every", "3"]
LAUNCHED = Path(__file__).with_name("launched.py")
FAMILIES = ("bert", "gpt2", "t5")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Two models, bert with factors, texts, and texts with labels."""
    folder = tmp_path_factory.mktemp("sharding")
    for family in FAMILIES:
        pico(family).save_pretrained(folder / family)
        word_tokenizer().save_pretrained(folder / family)
    factors = ("--keep", "0.5", "--calibration", "none", "--out", folder / "factors", "-q")
    assert run(["compress", str(folder / "bert"), *map(str, factors)]) == 0
    cores = ("--growth", "2", "--out", folder / "cores", "-q")
    assert run(["overparam", str(folder / "bert"), *map(str, cores)]) == 0
    for name in ("texts", "labels", "pairs"):
        (folder / name).mkdir()
    draw = torch.Generator().manual_seed(0)
    for name, count in (("train", 96), ("dev", 24)):
        orders = [torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(count)]
        texts = [" ".join(WORDS[i] for i in order) for order in orders]
        (folder / f"texts/{name}.txt").write_text("\n".join(texts) + "\n")
        for side, lines in (("en", texts), ("de", texts[::-1])):
            (folder / f"pairs/{name}.{side}").write_text("\n".join(lines) + "\n")
        rows = [f"{text}\t{order[0] % 2}" for text, order in zip(texts, orders, strict=True)]
        (folder / f"labels/{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def words_of(here: Path, out: str, model: str, *more: str) -> list[str]:
    return ["finetune", str(here / model), *more, *USUAL, "--out", str(here / out)]


def of(folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    """(weights but those whose gradient is rounding alone, losses and scores) of a run."""
    report = json.loads((folder / "report.json").read_text())
    rows = report["training"]["history"] + [report["scores"]["after"]]
    figures = [row[key] for row in rows for key in ("loss", "score") if key in row]
    found = load_file(folder / "model.safetensors")
    free = re.compile(r"(key|c_attn)\.bias$")  # one figure more for all scores of a query
    return {name: w for name, w in found.items() if not free.search(name)}, figures


def launched(folder: Path, commands: list) -> str:
    """What two processes say, which share the weights."""
    (folder / "commands.json").write_text(json.dumps(commands))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp"]
    launch += ["--num_processes", "2", "--main_process_port", str(31500 + os.getpid() % 1000)]
    launch += [str(LAUNCHED), str(folder / "commands.json")]
    made = subprocess.run(launch, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()[-2000:]
    return made.stderr.decode()


def test_two_processes_that_share_the_weights_learn_as_one(here):
    """Classes; tokens with tied weights; a decoder that computes its activations again; factors
    under a teacher; an encoder-decoder that translates; stopped, and gone on with; refused."""
    labels = ["--task", "classification", "--data", str(here / "labels"), "--steps", "9"]
    texts = ["--data", str(here / "texts")]
    pairs = ["--data", str(here / "pairs"), "--languages", "en-de", "--beams", "2"]
    distilled = ["--data", str(here / "texts" / "train.txt"), "--teacher", str(here / "bert")]
    jobs = {  # with how many micro-batches of each process
        "labels": (2, ["bert", *labels, "--keep-best", "--clip", "0"]),
        "mlm": (1, ["bert", "--task", "mlm", "--pack", "--steps", "6", *texts]),
        "clm": (2, ["gpt2", "--task", "clm", "--checkpointing", "--steps", "7", *texts]),
        "distilled": (1, ["factors", "--steps", "6", *distilled]),
        "t5": (1, ["t5", "--task", "translation", "--steps", "9", "--patience", "3", *pairs]),
    }
    commands = []
    for name, (parts, job) in jobs.items():  # one process with the same micro-batches
        assert run(words_of(here, f"one-{name}", *job, "--accumulate", str(2 * parts))) == 0
        words = words_of(here, f"two-{name}", *job, "--accumulate", str(parts))
        commands.append([0, None, words])
    again = words_of(here, "again", *jobs["labels"][1], "--accumulate", "2", "--save-every", "2")
    commands += [[1, 7, again], [0, None, [*again, "--resume"]]]
    commands += [[2, None, words_of(here, "x", "cores", *labels)]]
    said = launched(here, commands)
    shares = [float(share) for share in re.findall(r"share (\d\.\d\d)", said)]
    assert len(shares) == 14 and all(0.45 < share < 0.55 for share in shares)
    assert said.count("needs whole: use DDP") == 2
    for name in jobs:
        one, two = of(here / f"one-{name}"), of(here / f"two-{name}")
        assert max(abs(a - b) for a, b in zip(one[1], two[1], strict=True)) <= 1e-5, name
        assert max((w - two[0][k]).abs().max() for k, w in one[0].items()) <= 1e-4, name
    report = json.loads((here / "two-labels" / "report.json").read_text())
    assert report["training"]["processes"] == 2 and report["training"]["sharded"]
    whole, resumed = of(here / "two-labels")[0], of(here / "again")[0]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_shards_otherwise_and_strategies_under_it_are_refused(monkeypatch, capsys):
    absent = ["finetune", "./no/model", "--task", "cola", "--data", "./no/data"]  # nothing is read
    for (name, way), yes in zip(finetune.SHARDING.items(), ("true", "YES"), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, yes)
            assert run(absent) == 2
            assert f"not under {way}" in capsys.readouterr().err
            patch.setenv(name, "perhaps")
            assert run(absent) == 2
            assert f"{name}: invalid truth value" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "on")
    assert run([*absent, "--strategy", "dynamic"]) == 4  # one process shares nothing
    of_two(monkeypatch)
    assert run(absent) == 4
    assert run([*absent, "--strategy", "dynamic"]) == 2
    assert "needs whole: use DDP" in capsys.readouterr().err


def test_other_ways_and_other_commands_in_several_processes_are_refused(here, monkeypatch, capsys):
    way = SimpleNamespace(distributed_type=DistributedType.MULTI_XPU)
    monkeypatch.setattr("tlmtool.training.finetune.Accelerator", lambda **settings: way)
    words = words_of(here, "x", "bert", "--task", "classification", "--data", str(here / "labels"))
    assert run(words) == 2
    assert "not under MULTI_XPU" in capsys.readouterr().err
    of_two(monkeypatch)
    assert run(["compress", str(here / "bert"), "--rank", "2", "--out", str(here / "x")]) == 2
    assert "tlm compress runs in one process" in capsys.readouterr().err
    assert not (here / "x").exists()


def test_layers_left_out_at_random_are_refused_where_each_process_leaves_out_others(here):
    recipe = finetune.resolved(build("finetune", {"model": "bart", "task": "clm"}))
    job = SimpleNamespace(model=pico("bart"))
    job.model.config.decoder_layerdrop = 0.1
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    with pytest.raises(Usage, match="decoder_layerdrop of this model skips"):
        finetune.train(recipe, job, two)
