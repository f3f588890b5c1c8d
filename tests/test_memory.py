"""What training frees is kept for its next step, and a step keeps no more than has room."""

import os
import platform
import subprocess
import sys

import pytest
import torch
import trainings
from conftest import pico
from trainings import arguments, weights

from tlmtool.cli import run
from tlmtool.models.shadow import shadow
from tlmtool.training import memory
from tlmtool.training.order import parts_of

model, data = trainings.model, trainings.data  # its fixtures

FAULTS = """
import resource
import torch
from tlmtool.training import memory

memory.keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(1 << 24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**more):
    """Pages asked of the kernel for twenty equal tensors, one after the other."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=plain | more, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_a_freed_tensor_is_not_asked_of_the_kernel_again_unless_the_user_chose():
    assert faults() * 2 < faults(MALLOC_MMAP_MAX_="65536")


@pytest.mark.parametrize("tokens", [None, 1, 20, 45, 1000])
@pytest.mark.parametrize("micro", [1, 3])
def test_parts_hold_all_examples_in_order_and_no_more_tokens_than_have_room(tokens, micro):
    lengths = [7, 30, 4, 9, 9, 12, 1, 15]
    places = [5, 0, 3, 1, 4, 6]
    found = parts_of(places, micro, lengths, tokens)
    assert len(found) == micro and [p for each in found for part in each for p in part] == places
    for part in (part for each in found for part in each):
        longest = max(lengths[place] for place in part)
        assert len(part) == 1 or tokens is None or len(part) * longest <= tokens
    assert tokens not in (None, 1000) or all(len(each) == 1 for each in found)


@pytest.mark.parametrize("taught", [False, True])
def test_a_batch_that_is_learned_in_parts_gives_the_same_weights(
    model, data, tmp_path, monkeypatch, taught
):
    kept, seen = memory.tokens_at_once(pico("bert")), []
    made, more = parts_of, ["--teacher", str(model), "--train", "all"] if taught else []
    monkeypatch.setattr(
        "tlmtool.training.loop.parts_of", lambda *given: seen.append(made(*given)) or seen[-1]
    )
    for name in ("whole", "parts"):
        words = arguments(model, data, tmp_path / name, "--steps", 6, "--dropout", 0, *more)
        assert run(words) == 0
        monkeypatch.setattr(memory, "ACTIVATIONS", memory.ACTIVATIONS * 30 // kept)
    counts = [len(several) for each in seen for several in each]
    assert max(counts[:6]) == 1 and min(counts[6:]) > 1
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    free = "key.bias"  # its gradient is rounding alone
    assert max(float((w - two[k]).abs().max()) for k, w in one.items() if free not in k) < 1e-5


def test_a_shadow_has_no_numbers():
    """It is run to see what a model computes, also where the weights are too large for memory."""
    dense = pico("llama")
    copy = shadow(dense, "cpu", held=False)
    for mine, theirs in zip(copy.parameters(), dense.parameters(), strict=True):
        assert mine.shape == theirs.shape and mine.untyped_storage().nbytes() == mine.itemsize
    assert copy(torch.tensor([[1, 2]])).last_hidden_state.eq(0).all()
