"""What a model costs, side by side: parameters, FLOPs, latency, memory."""

import ctypes
import gc
import re
import sys
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlmtool.failure import Usage
from tlmtool.measuring.counting import (
    CONVENTION,
    check_length,
    count_bytes,
    count_parameters,
    example_of,
    forward_flops,
    parameters_by_role,
)
from tlmtool.measuring.outputs import evaluating
from tlmtool.measuring.passes import in_turns, synchronize
from tlmtool.models.streaming import give_back

NOTE = (
    f"forward pass; {CONVENTION}, counted on the meta device; "
    "peak memory: of one forward pass, above what was in use before it, the weights included"
)
_earlier = 0  # the most resident bytes so far, which a reset makes the system forget


@torch.no_grad()
def forward_latency(
    models: dict[str, nn.Module], seq_len: int, batch: int = 1, runs: int = 10
) -> dict[str, dict[str, float]]:
    """Milliseconds of a forward pass, {id: {"median", "min", "max", "runs"}}, in turns."""
    works, device = {}, "cpu"
    with ExitStack() as stack:
        for name, model in models.items():
            inputs = example_of(model, seq_len, batch)
            device = inputs["input_ids"].device
            works[name] = partial(model, **inputs)
            stack.enter_context(evaluating(model))
        return in_turns(works, runs, device)


class PeakMemory:
    """Context manager: afterwards `bytes` is the peak above the memory in use on entry.

    On a GPU it is what torch allocates there, else the resident memory of this process (on Linux).
    It is None where the system cannot reset the peak (`/proc/self/clear_refs`). What was in use on
    entry is not counted: see `peak_rss` for all of it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device, self.bytes = torch.device(device), None

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self.device.type == "cuda":
            synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start: int | None = torch.cuda.memory_allocated(self.device)
        else:
            self.start = _reset_peak()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.device.type == "cuda":
            synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.start
        elif self.start is not None:
            self.bytes = max(0, _status("VmHWM") - self.start)


def release_memory() -> None:
    """Give back to the system, where that is possible, freed memory that the allocator keeps, and
    weights that were read from files."""
    give_back()
    with suppress(OSError, AttributeError):  # the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak_rss() -> int | None:
    """The most resident bytes of this process since it started; None where the system does not say.

    Memory of a GPU is not in it.
    """
    global _earlier
    if now := _status("VmHWM"):  # which the system only knows to some pages
        _earlier = max(now, _earlier)
        return _earlier
    with suppress(ImportError):
        resource = import_module("resource")
        most = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return most if sys.platform == "darwin" else 1024 * most
    with suppress(ImportError, AttributeError):  # Windows
        return int(import_module("psutil").Process().memory_info().peak_wset)
    return None


def resident() -> int:
    """The resident bytes of this process now; 0 where the system does not say."""
    return _status("VmRSS")


def _reset_peak() -> int | None:
    """Give free memory back and start the peak again; the resident bytes, or None."""
    release_memory()
    peak_rss()  # remembers what the reset forgets
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is none."""
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", told, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


@torch.no_grad()
def activation_peak(model: nn.Module, seq_len: int, batch: int = 1) -> int | None:
    """Peak bytes of one forward pass above the loaded weights; a first pass loads what is lazy."""
    inputs = example_of(model, seq_len, batch)
    with evaluating(model):
        model(**example_of(model, min(seq_len, 8), 1))
        with PeakMemory(inputs["input_ids"].device) as peak:
            model(**inputs)
    return peak.bytes


def profile(
    models: list[tuple[str, nn.Module, dict[str, str]]],
    seq_lens: list[int],
    batch: int = 1,
    latency: bool = False,
    runs: int = 10,
) -> dict[str, Any]:
    """Cost of each (id, model, roles), side by side.

    {"models": [the fields of `report.parts.profiled.Profiled`], "note"}; latency is None unless it
    is asked for.
    """
    if batch < 1:
        raise Usage(f"batch is {batch}; at least 1 is needed")
    names = [name for name, _, _ in models]
    if len(set(names)) < len(names):
        raise Usage(f"two models have one id: {', '.join(names)}")
    for _, model, _ in models:
        for seq_len in seq_lens:
            check_length(model, seq_len)
    entries = [
        {
            "id": name,
            "parameters": count_parameters(model),
            "by_role": parameters_by_role(model, roles),
            "weight_bytes": count_bytes(model),
            "runs": [],
        }
        for name, model, roles in models
    ]
    for seq_len in seq_lens:
        counts = [forward_flops(model, seq_len, batch, roles) for _, model, roles in models]
        everyone = {name: model for name, model, _ in models}
        times = forward_latency(everyone, seq_len, batch, runs) if latency else {}
        for entry, counted, (name, model, _) in zip(entries, counts, models, strict=True):
            entry["runs"].append(
                {
                    "seq_len": seq_len,
                    "batch": batch,
                    "flops": counted["total"],
                    "by_part": counted["by_part"],
                    "latency_ms": times.get(name),
                    "peak_memory_bytes": activation_peak(model, seq_len, batch),
                }
            )
    return {"models": entries, "note": NOTE}
