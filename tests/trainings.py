"""Small trainings that several test files start: their model, data, words and processes."""

import hashlib
import json
import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.data import state
from tlmtool.training.loop import Trainer

FAST = ["--batch", "8", "--lr", "1e-3", "--max-length", "16", "--device", "cpu", "-q"]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tlmtool.commands.finetune", "transformers.models.bert"])
DYNAMIC = ["--strategy", "dynamic", "--N", "2", "--n", "1", "--every", "4", "--growth", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pico") / "model"
    pico("bert").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Whether the cat comes before the mat."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 160), ("dev", 40)):
        draw, rows = torch.Generator().manual_seed(count), ["sentence\tlabel"]
        for _ in range(count):
            order = torch.randperm(len(WORDS), generator=draw).tolist()
            label = order.index(WORDS.index("cat")) < order.index(WORDS.index("mat"))
            rows.append(f"{' '.join(WORDS[i] for i in order)}\t{int(label)}")
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def arguments(model, data, out, *more) -> list[str]:
    words = ["finetune", str(model), "--task", "classification", "--data", str(data)]
    return [*words, "--out", str(out), *FAST, *map(str, more)]


def started(call, words) -> BaseProcess:
    """A new process, forked from one that has imported what takes long."""
    process = PROCESSES.Process(target=call, args=(words,))
    process.start()
    return process


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Runs of finetune that end before the given step."""
    learn, stops = Trainer.learn, []

    def stopping(self, *args):
        if self.step in stops:
            raise KeyboardInterrupt
        return learn(self, *args)

    monkeypatch.setattr(Trainer, "learn", stopping)

    def call(words: list[str], step: int) -> None:
        stops[:] = [step]
        assert run(words) == 130
        stops.clear()
        capsys.readouterr()

    return call


def interrupted(*_) -> None:
    raise KeyboardInterrupt


def sentence(capsys) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "internal error" not in said and "Traceback" not in said, said
    return said


def sealed(file: Path, kept: dict) -> None:
    """A state with a right sum, as one who knows the form could make it."""
    torch.save(kept, file)
    whole = file.read_bytes()
    file.write_bytes(whole + state.SUM + hashlib.sha256(whole).hexdigest().encode())


@pytest.fixture
def pipeline(model, tmp_path) -> list[str]:
    """The words of a small pipeline that reads a text."""
    pico("bert", "lm").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    stages = [
        {"name": "a", "verb": "compress", "model": str(tmp_path / "model")}
        | {"compression": {"rank": 2}, "calibration": {"text": "none"}},
        {"name": "b", "verb": "evaluate", "evaluation": {"task": "mlm", "data": str(text)}},
    ]
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": stages}))
    return ["run", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out"), "-q"]
