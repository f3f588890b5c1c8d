"""Single passes of functions: the time of several that take turns, and the memory of one."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tlmtool.failure import Usage

WARM_UP = 2
Work = Callable[..., Any]


def one_pass(call: Callable[..., Tensor], leaves: list[Tensor], backward: bool) -> Work:
    """`call` without a graph, or with the gradients of all leaves. Arguments are ignored."""

    def forward(*_: Any) -> Tensor:
        with torch.no_grad():
            return call()

    def both(*_: Any) -> Any:
        out = call()
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return both if backward else forward


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has finished."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    works: Mapping[str, Work],
    runs: int,
    device: torch.device | str = "cpu",
    tick: Callable[[int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Milliseconds of each, {name: {"median", "min", "max", "cpu", "runs"}}. `cpu` is the median of
    the processor time of all threads, which does not grow while other work has the processor.

    They take turns (A B A B ...) in one process after a warm-up, so that other work on the machine
    affects them alike.
    """
    if runs < 1:
        raise Usage(f"runs is {runs}; at least 1 is needed")
    times: dict[str, list[float]] = {name: [] for name in works}
    busy: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-WARM_UP, runs):
        for name, work in works.items():
            synchronize(device)
            start, before = time.perf_counter(), time.process_time()
            work()
            synchronize(device)
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
                busy[name].append(1000 * (time.process_time() - before))
            if tick:
                tick(1)
    return {
        name: dict(median=median(ms), min=min(ms), max=max(ms), cpu=median(busy[name]), runs=runs)
        for name, ms in times.items()
    }


def peak(work: Work, device: torch.device | str = "cpu") -> int | None:
    """The most bytes that `work` has allocated at once, its result included. None on a device whose
    allocator is not known.

    On a CPU the profiler records what the allocator gives and takes back, also inside operators,
    where a mode that looks at tensors sees nothing.
    """
    work()
    kind = torch.device(device).type
    if kind == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if kind != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # without it, the profiler writes to stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    events = [e for e in events if e.get("name") == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most
