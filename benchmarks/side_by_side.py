"""The frame of a measurement beside peers: flags, turns, results, the table and the JSON.

Ours and the peer take turns in one run (A B A B ...), so that other work on the machine slows both.
A ratio is that of the medians.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

Goal = tuple[str, float]
WIDTH = 120  # columns of a table that goes into a pipe
VERDICT = {True: "met", False: "missed"}
# Untimed turns before the timed ones. With fewer, a GPU still loads code and raises its clocks.
WARM_UP = {"cpu": 1, "cuda": 5}


@dataclass
class Result:
    """One line: two measurements, their ratio (`of` says of what), and the goal."""

    case: str
    ours: str = ""
    against: str = ""
    ratio: float | None = None
    of: str = ""
    goal: Goal | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.ratio is None:
            return None
        sign, bound = self.goal
        return {"<": self.ratio < bound, "<=": self.ratio <= bound, ">=": self.ratio >= bound}[sign]


@dataclass(frozen=True)
class Setup:
    """How to measure."""

    quick: bool = False
    full: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    warm: bool = False

    @property
    def judged(self) -> bool:
        """Whether the goals apply: they are for float32 on a CPU."""
        return self.device == "cpu" and self.dtype == torch.float32


Row = Callable[[Setup], Iterator[Result]]


def turns(
    items: list[Any],
    contenders: dict[str, Callable],
    runs: int,
    device: str = "cpu",
    keep: bool = False,
    warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Seconds of each contender over all items, a figure for each run, and its last results.

    The contenders take turns on each item, after a warm-up on the first item. Without `keep` no
    results are kept: their memory is freed before the next turn, as in normal use. With `warm` an
    untimed pass of the contender comes before each timed one, so that the caches hold its own data
    and not the peer's. A GPU is waited for before and after each pass, so launches count too. The
    `clock` may be `time.process_time`, which other work on the machine does not advance.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for turn in range(-WARM_UP[device], runs):
        spent, results = dict.fromkeys(contenders, 0.0), {name: [] for name in contenders}
        for item in items[:1] if turn < 0 else items:
            for name, work in contenders.items():
                if warm:
                    work(item)
                wait()
                start = clock()
                made = work(item)
                wait()
                spent[name] += clock() - start
                results[name] += [made] if keep else []
                del made
        for name in contenders if turn >= 0 else ():
            seconds[name].append(spent[name])
    return seconds, results


def timed(
    case: str, seconds: dict[str, list[float]], goal: Goal | None, gain: bool = False
) -> Result:
    """A result of `turns`, ours first. The ratio is ours / peer, or peer / ours for a `gain`."""
    (name, ours), (peer, theirs) = ((n, median(s)) for n, s in seconds.items())
    ratio, of = (theirs / ours, f"{peer} / {name}") if gain else (ours / theirs, f"{name} / {peer}")
    data = {"seconds": seconds}
    return Result(case, f"{ours:.3g} s", f"{peer} {theirs:.3g} s", ratio, of, goal, data)


def flags(doc: str, rows: dict[str, Row]) -> argparse.Namespace:
    """The flags of a script. `only` holds the names of the rows to run."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer repetitions, smaller shapes")
    add("--full", action="store_true", help="time every matrix instead of a sample")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="dtype of forward passes",
    )
    add("--threads", type=int, metavar="N", help="threads of torch (default: torch's own)")
    add(
        "--warm",
        action="store_true",
        help="an untimed pass before each timed one, in rows that can",
    )
    add("--only", metavar="ROW[,ROW]", help=f"some of {', '.join(rows)}")
    add("--out", type=Path, metavar="FILE", help="also write the results as JSON")
    given = parser.parse_args()
    given.only = given.only.split(",") if given.only else list(rows)
    if unknown := [name for name in given.only if name not in rows]:
        parser.error(f"unknown row {unknown[0]!r}; known: {', '.join(rows)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    if given.threads is not None and given.threads < 1:
        parser.error(f"--threads is {given.threads}; at least 1 is needed")
    if given.out and not given.out.absolute().parent.is_dir():
        parser.error(f"--out {given.out}: there is no folder {given.out.parent}")
    return given


def environment(device: str) -> dict[str, Any]:
    """What the figures depend on: versions, device, cores, threads, load."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("tlmtool", "torch", "transformers", "tensorly"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "load": os.getloadavg()[0],
    }


def table(name: str, about: str, results: list[Result]) -> Table:
    made = Table(
        title=f"{name}: {about}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    widths = {"measured": 37, "ours": 15, "against": 19, "ratio": 27, "goal": 14}
    for heading, width in widths.items():
        made.add_column(heading, width=width)
    for r in results:
        ratio, goal = "", ""
        if r.ratio is not None:
            ratio = f"{r.ratio:.3g} {r.of}"
            goal = f"{r.goal[0]} {r.goal[1]:g} {VERDICT[r.met]}" if r.goal else ""
        made.add_row(r.case, r.ours, r.against, ratio, goal)
    return made


def footer(env: dict[str, Any], seconds: dict[str, float], setup: Setup) -> str:
    packages = ", ".join(f"{k} {v or 'missing'}" for k, v in env["versions"].items())
    took = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    lines = [
        packages,
        f"{env['device']}, {env['cores']} cores, {env['threads']} torch threads "
        f"(OMP_WAIT_POLICY={env['OMP_WAIT_POLICY']}); machine's load before: {env['load']:.1f}",
        f"each number is measured in this run; took {took}",
    ]
    if setup.warm:
        lines.append("--warm: each timed pass follows an untimed one of the same contender")
    if setup.quick:
        lines.append("--quick: smaller shapes; the goals are meant for the full run")
    if not setup.judged:
        lines.append("the goals are for float32 on a CPU: none is judged here")
    return "\n".join(lines)


def main(doc: str, rows: dict[str, Row]) -> None:
    """Runs the rows that were asked for, prints a table of each, and writes the JSON."""
    given = flags(doc, rows)
    if given.threads:
        torch.set_num_threads(given.threads)
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of processes that a row starts
    setup = Setup(given.quick, given.full, given.device, getattr(torch, given.dtype), given.warm)
    env, seconds, kept = environment(given.device), {}, []
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for name in given.only:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        start, results = time.perf_counter(), []
        for result in rows[name](setup):
            print(f"  {result.case}: {result.ours}", file=sys.stderr, flush=True)
            results.append(result if setup.judged else replace(result, goal=None))
        seconds[name] = time.perf_counter() - start
        console.print(table(name, (rows[name].__doc__ or "").strip(), results))
        kept += [{"row": name, **asdict(r), "met": r.met} for r in results]
    console.print(footer(env, seconds, setup))
    if given.out:
        content = {"environment": env, "quick": given.quick, "warm": given.warm}
        content |= {"dtype": given.dtype, "row_seconds": seconds, "results": kept}
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
