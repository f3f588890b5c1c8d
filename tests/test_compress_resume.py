"""A compression that was killed goes on to the same weights, report and plan, bit for bit."""

import json
import os
import random
import signal

import compressions
import numpy
import pytest
import torch
from compressions import WRITE, arguments, made
from conftest import pico, sentences, word_tokenizer
from trainings import interrupted, sentence, started

from tlmtool.cli import run
from tlmtool.commands.run import Run
from tlmtool.compression.compress import compress
from tlmtool.compression.journal import Journal
from tlmtool.decompositions import NAMES, named

texts, models, words, stopped = (
    compressions.texts,
    compressions.models,
    compressions.words,
    compressions.stopped,
)  # its fixtures
CASES = {  # {name: (family, words)}
    "encoder": ("bert", ["--keep", "0.5"]),
    "causal": ("llama", ["--keep", "0.6", "--method", "svd"]),
    "two stacks": ("t5", ["--energy", "0.8"]),
    "once": ("bert", ["--rank", "3", "--fit", "once"]),
    "no text": ("llama", ["--rank", "3", "--calibration", "none"]),
    "converted": ("bert", ["--keep", "0.5", "--attention", "dimensionwise"]),
}


def killed(given: tuple[list[str], int]) -> None:
    """A run that is killed once so many groups are finished."""
    words, groups = given

    def write(self, *more):
        WRITE(self, *more)
        if len(self.groups) == groups:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.write = write  # of this process alone
    run(words)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_same(case, models, texts, tmp_path, capfd):
    family, more = CASES[case]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(arguments(models[family], texts, whole, *more)) == 0
    words = arguments(models[family], texts, out, *more)
    for groups in (2, 5):
        process = started(killed, ([*words, *(["--resume"] if groups > 2 else [])], groups))
        process.join()
        assert process.exitcode == -signal.SIGKILL and not out.exists()
        assert len([*out.with_name("out.compressing").glob("group-*")]) == groups
    capfd.readouterr()
    assert run(words) == 2 and "holds an interrupted run: --resume" in sentence(capfd)
    less = ["--memory", "100KB"] if case == "causal" else []  # as after a run out of memory
    assert run([*words, *less, "--resume"]) == 0, capfd.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert bool(report.get("streamed")) == bool(less)
    found, expected = made(out), made(whole)
    for each in (found, expected) if less else ():
        each["report"].pop("int8")  # which a model that is streamed is not measured in
    assert found == expected and len(expected["report"]["sites"]) > 5
    assert not out.with_name("out.compressing").exists()


def test_a_run_that_stops_after_each_group_repeats_none(words, tmp_path, stopped, monkeypatch):
    fitted = []

    def write(self, sites, *more):
        fitted.extend(sites)
        WRITE(self, sites, *more)

    whole, count = arguments(words[1], words[3], tmp_path / "whole", "--keep", "0.5"), []
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", lambda *given: (count.append(1), WRITE(*given)))
        assert run(whole) == 0
    assert len(count) > 5
    for groups in range(1, len(count)):
        told = stopped([*words, "--resume"], groups)
        assert f"interrupted; {groups} of " in told or groups > 1
    monkeypatch.setattr(Journal, "write", write)
    assert run([*words, "--resume"]) == 0
    assert 0 < len(fitted) <= 3 and made(tmp_path / "out") == made(tmp_path / "whole")


def test_what_is_done_and_how_to_go_on_is_told(words, tmp_path, stopped):
    told = stopped(words, 4).strip()
    assert (
        told
        == f"tlm: interrupted; 7 of 13 layers are done: go on with tlm {' '.join(words)} --resume"
    )
    told = stopped([*words, "--resume"], 5, signal.raise_signal)
    assert "interrupted; " in told and told.count("--resume") == 1

    def full(_):
        raise OSError(28, "No space left on device", "x")

    told = stopped([*words, "--resume"], 6, full, 1)
    assert "the disk is full: x" in told and "layers are done: go on with" in told


def test_a_stopped_pipeline_says_how_many_stages_are_done(words, tmp_path, monkeypatch, capsys):
    small = {"rank": 2, "sites": ["attention"]}
    stages = [
        {"name": name, "verb": "compress", "model": words[1], "compression": small}
        | {"calibration": {"text": "none"}}
        for name in "ab"
    ]
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": stages}))
    pipeline = ["run", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "o"), "-q"]
    load, loads = Run.load, []

    def second(self, *given, **more):
        loads.append(self)
        return interrupted() if len(loads) == 2 else load(self, *given, **more)

    monkeypatch.setattr(Run, "load", second)
    assert run([*pipeline, "--overwrite"]) == 130
    again = f"tlm {' '.join(pipeline)} --resume"
    assert f"interrupted; 1 of 2 stages are done: go on with {again}" in capsys.readouterr().err
    assert run([*pipeline, "--resume"]) == 0 and len(loads) == 3


def test_a_stage_of_a_pipeline_goes_on_after_its_last_group(words, tmp_path, stopped, monkeypatch):
    small = {"keep": 0.5, "sites": ["all"]}
    stage = {"name": "a", "verb": "compress", "model": words[1], "compression": small}
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": [stage]}))
    pipeline = ["run", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "o"), "-q"]
    told = stopped(pipeline, 6)
    assert f"layers are done: go on with tlm {' '.join(pipeline)} --resume" in told
    numbers = []

    def write(self, *more):
        numbers.append(len(self.groups))
        WRITE(self, *more)

    monkeypatch.setattr(Journal, "write", write)
    assert run([*pipeline, "--resume"]) == 0
    assert numbers[0] == 6 and not (tmp_path / "o" / "a.compressing").exists()


@pytest.mark.parametrize("method", [*NAMES, "auto"])
def test_nothing_is_drawn_from_a_generator_that_others_use(method):
    """A resumed run, which plans nothing and fits less, would draw other numbers."""
    weighed = method == "auto" or named(method).takes_metric
    texts = {"tokenizer": word_tokenizer(), "texts": sentences(8)} if weighed else {}
    model = pico("bert")
    before = torch.get_rng_state(), numpy.random.get_state()[1].copy(), random.getstate()
    compress(model, sites="ffn", keep=0.6, method=method, **texts)
    assert torch.equal(before[0], torch.get_rng_state()) and random.getstate() == before[2]
    assert (before[1] == numpy.random.get_state()[1]).all()
