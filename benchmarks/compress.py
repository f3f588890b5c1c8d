"""What compressing costs, beside its peers: time, error, memory, forward speed, start-up.

    python benchmarks/compress.py                        # all rows, some minutes
    python benchmarks/compress.py --quick                # smaller shapes, under two minutes
    python benchmarks/compress.py --only btd,svd --device cuda --out result.json

Ours and the peer take turns in one run (A B A B ...), so that what else the machine does meets both;
a ratio is one of medians. Waiting threads sleep (OMP_WAIT_POLICY=passive, unless it is set): of
themselves they spin, which on a busy machine stalls whoever runs many short operations.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import compress_rows as rows
import torch
from compress_rows import Result, Setup
from rich import box
from rich.console import Console
from rich.table import Table

VERDICT = {True: "met", False: "missed", None: "-"}
ROWS = {
    "btd": rows.btd,
    "svd": rows.svd,
    "memory": rows.memory,
    "forward": rows.forward,
    "help": rows.help_time,
}


def flags(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller shapes")
    parser.add_argument("--full", action="store_true", help="row btd: all matrices, no sample")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the row forward"
    )
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--only", metavar="ROW[,ROW]", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")
    given = parser.parse_args(args)
    given.only = given.only.split(",") if given.only else list(ROWS)
    if unknown := [name for name in given.only if name not in ROWS]:
        parser.error(f"unknown row {unknown[0]!r}; known: {', '.join(ROWS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    if given.threads is not None and given.threads < 1:
        parser.error(f"--threads is {given.threads}; at least 1 is needed")
    return given


def environment(device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    found = {}
    for package in ("tlmtool", "torch", "transformers", "tensorly"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {
        "versions": {"python": platform.python_version(), **found},
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        "load_before": os.getloadavg()[0],
    }


def measured(names: Iterable[str], setup: Setup) -> tuple[list[Result], dict[str, float]]:
    """The results of the rows, and the seconds that each row took."""
    results, seconds = [], {}
    for name in names:
        start = time.perf_counter()
        for result in ROWS[name](setup):
            print(f"{name}: {result.case} ({result.text})", file=sys.stderr, flush=True)
            results.append(result)
        seconds[name] = time.perf_counter() - start
    return results, seconds


def show(results: list[Result], setup: Setup, about: dict[str, Any], seconds: dict) -> None:
    """The table and what one must know to read it, on standard output; plain text in a pipe."""
    console = Console(
        width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("row", "measured", "ours", "against"):
        table.add_column(heading)
    table.add_column("ratio", justify="right", no_wrap=True)
    for heading in ("which is", "goal", ""):
        table.add_column(heading, no_wrap=heading != "which is")
    last = ""
    for r in results:
        ratio = "" if r.ratio is None else f"{r.ratio:.3g}"
        goal, met = (f"{r.goal[0]} {r.goal[1]:g}", VERDICT[r.met]) if r.goal else ("", "")
        row, last = (r.row if r.row != last else ""), r.row
        table.add_row(row, r.case, r.ours, r.against, ratio, r.of, goal, met)
    console.print(table)
    packages = ", ".join(f"{k} {v or 'missing'}" for k, v in about["versions"].items())
    device = f"{about['device']}, {about['cores']} cores, {about['threads']} torch threads"
    took = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    console.print(f"{packages}\n{device}, waiting threads {about['OMP_WAIT_POLICY']}")
    console.print(f"load of the machine before: {about['load_before']:.1f}; took: {took}")
    if setup.quick:
        console.print("--quick: smaller shapes; the goals are meant for BERT-base")


def main() -> None:
    given = flags()
    if given.threads:
        torch.set_num_threads(given.threads)
    setup = Setup(given.quick, given.full, given.device, getattr(torch, given.dtype))
    about = environment(given.device)
    results, seconds = measured(given.only, setup)
    show(results, setup, about, seconds)
    if given.out:
        content = {
            "environment": about,
            "quick": given.quick,
            "dtype": given.dtype,
            "row_seconds": seconds,
            "results": [result.to_dict() for result in results],
        }
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
