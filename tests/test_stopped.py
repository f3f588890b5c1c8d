"""Trainings that are killed, stopped or launched in several processes end with the same weights."""

import json
import os
import signal
import time

import pytest
import torch
import trainings
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed import run as torchrun
from trainings import (
    DYNAMIC,
    arguments,
    started,
    weights,
)

from tlmtool.cli import run
from tlmtool.training.loop import Trainer

model, data = trainings.model, trainings.data  # its fixtures


class Stopped(Exception):
    pass


@pytest.mark.parametrize("strategy", ["dynamic", "static", "none"])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(model, data, tmp_path, strategy):
    more = ["--steps", 24, *DYNAMIC, "--save-every", 3]
    more[more.index("dynamic")] = strategy
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started(run, arguments(model, data, whole, *more)).join()
    words = arguments(model, data, killed, *more, "--resume")
    state, kills = killed.with_name("killed.training") / "state.pt", 0
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = started(run, words)
        while process.is_alive():
            if state.exists() and state.stat().st_mtime_ns > before:
                process.kill()
                break
            time.sleep(0.001)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    started(run, words).join()
    assert kills >= 1 and not state.exists()
    first, second = weights(whole), weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_select_and_learn_as_one(model, data, tmp_path):
    more = ("--steps", 20, *DYNAMIC, "--dropout", 0, "--evaluate-every", 1)
    one, two, logs = (tmp_path / name for name in ("one", "two", "logs"))
    assert run(arguments(model, data, one, *more)) == 0
    launch = ["--nproc_per_node", "2", "--master_port", str(29500 + os.getpid() % 1000)]
    launch += ["--redirects", "1", "--log-dir", str(logs), "-m", "--", "tlmtool"]
    process = started(torchrun.main, [*launch, *arguments(model, data, two, *more), "--json"])
    process.join()
    assert process.exitcode == 0
    found, silent = (next(logs.glob(f"**/{rank}/stdout.log")).read_text() for rank in (0, 1))
    single, double = json.loads((one / "report.json").read_text()), json.loads(found)
    assert double["training"]["processes"] == 2 and not silent
    assert [s["chosen"] for s in single["selections"]] == [
        s["chosen"] for s in double["selections"]
    ]
    losses = [[h["loss"] for h in r["training"]["history"]] for r in (single, double)]
    assert len(losses[0]) == 20
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) <= 1e-5


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_state(
    model, data, tmp_path, capsys
):
    """The first step of warm-up has rate 0, the second spoils the weights, the third finds out."""
    out = tmp_path / "out"
    more = ("--steps", 60, "--save-every", 1, "--clip", 0, "--warmup", 30)
    words = arguments(model, data, out, *more)
    words[words.index("1e-3")] = "1e30"
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "the loss is nan at step 3" in said and "out.training" in said and not out.exists()
    kept = torch.load(out.with_name("out.training") / "state.pt", weights_only=True)["state"]
    assert kept["step"] == 1 and all(w.isfinite().all() for w in kept["model"].values())
    assert run(words) == 2 and "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ["--strategy", "dynamic"],
        ["--strategy", "dynamic", "--keep-best", "--evaluate-every", "5", "--method", "svd"],
        ["--strategy", "static", "--importance", "fisher"],
        ["--strategy", "none", "--accumulate", "3", "--patience", "9"],
    ],
    ids=lambda more: " ".join(more[1:4]),
)
def test_every_saved_state_leads_to_the_same_weights(model, data, tmp_path, monkeypatch, more):
    """A chain of runs, each of which goes from one saved state to the next."""
    words = ("--steps", 24, *DYNAMIC, *more, "--save-every", 3)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(arguments(model, data, whole, *words)) == 0
    learn, first, begun = Trainer.learn, weights(whole), []
    for stop in range(3, 27, 3):
        steps = []

        def stopping(self, *args, stop=stop, steps=steps):
            steps.append(self.step)
            if self.step == stop + 1:  # the state of `stop` has proved good
                raise Stopped
            return learn(self, *args)

        monkeypatch.setattr(Trainer, "learn", stopping)
        assert run(arguments(model, data, out, *words, "--resume")) == int(stop < 24)
        begun.append(steps[0])
    second = weights(out)
    assert begun == [*range(0, 24, 3)]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_accelerate_launches_it(model, data, tmp_path):
    launch = ["--multi_gpu", "--num_processes", "2"]  # so that it starts two, on CPUs too
    port = ["--main_process_port", str(30500 + os.getpid() % 1000)]
    words = ["-m", "tlmtool", *arguments(model, data, tmp_path / "out", "--steps", 4, *DYNAMIC)]
    words[words.index("4") + 1 : words.index("4") + 1] = ["--every", "2"]
    launch_command(launch_command_parser().parse_args([*launch, *port, *words]))
    training = json.loads((tmp_path / "out" / "report.json").read_text())["training"]
    assert training["steps"] == 4 and training["processes"] == 2 and not training["sharded"]
