"""Rows of compress.py that need a process of their own: memory of a whole run, and start-up."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from dense import NO_MINILM, base, minilm, skipped
from side_by_side import Goal, Result, Setup, turns

from tlmtool import compress, load, save
from tlmtool.data import reading
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models.checkpoint import load_tokenizer
from tlmtool.models.folder import Folder

KEEP, BOTH, TEXTS = 0.5, "attention,ffn", 64  # the share, the sites and the texts of every row
HEAVY = ("torch", "transformers", "pydantic")  # what `--help` must not load
MiB = 2**20


def memory(setup: Setup) -> Iterator[Result]:
    """peak of load, compress (svd, keep 0.5) and save in a fresh process, imports not counted"""
    if setup.device == "cuda":
        yield skipped("peak of a whole compress", "cpu only")
        return
    (name, model), folder = base(setup), minilm()
    with tempfile.TemporaryDirectory() as scratch:
        whole, sharded = Path(scratch, "whole"), Path(scratch, "sharded")
        model.save_pretrained(whole)
        model.save_pretrained(sharded, max_shard_size="50MB")
        goal, shards = ("<=", 2.5), len(Folder(sharded).weight_files)
        yield _peak(f"{name}, one file", whole, None, goal)
        yield _peak(f"{name}, {shards} shards", sharded, None, goal)
        case = f"{name}, one file, {TEXTS} texts"
        if setup.quick or folder is None:
            yield skipped(case, "--quick" if setup.quick else NO_MINILM)
        else:
            yield _peak(case, whole, folder, goal)


def _peak(case: str, folder: Path, tokenizer: Path | None, goal: Goal | None) -> Result:
    program = "import sys, processes; processes.whole_compress(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), str(tokenizer or "")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}: the process that was measured failed\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    size = Folder(folder).weight_bytes
    return Result(
        case,
        f"{found['bytes'] / MiB:.0f} MiB, {found['seconds']:.0f} s",
        f"checkpoint {size / MiB:.0f} MiB",
        found["bytes"] / size,
        "peak / checkpoint",
        goal,
        {**found, "checkpoint_bytes": size},
    )


def whole_compress(folder: str, tokenizer: str) -> None:
    """What `_peak` runs in its process. Prints {"bytes", "seconds"} as JSON."""
    before, start = _most(), time.perf_counter()
    with PeakMemory() as peak:
        found = reading.texts(None, TEXTS) if tokenizer else None
        words = load_tokenizer(Path(tokenizer)) if tokenizer else None
        model = load(folder)
        compress(model, keep=KEEP, sites=BOTH, method="svd", tokenizer=words, texts=found)
        save(model, Path(folder).with_name("out"), source=folder, overwrite=True)
    used = _most() - before if peak.bytes is None else peak.bytes
    print(json.dumps({"bytes": used, "seconds": time.perf_counter() - start}))


def _most() -> int:
    """Peak resident bytes of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def help_time(setup: Setup) -> Iterator[Result]:
    """start of tlm --help, beside the import of typer, rich and typer.rich_utils"""
    if setup.device == "cuda":
        yield skipped("time of --help", "cpu only")
        return
    verbs = {"tlm --help": ["--help"], "tlm compress --help": ["compress", "--help"]}
    commands = {name: ["-m", "tlmtool", *args] for name, args in verbs.items()}
    commands["imports"] = ["-c", "import typer, rich, typer.rich_utils"]
    contenders = {name: _runner(args) for name, args in commands.items()}
    seconds, _ = turns([None], contenders, 5 if setup.quick else 11)
    for name in verbs:
        pair = {k: seconds[k] for k in (name, "imports")}
        for what, of, goal in (("median", median, ("<", 1.5)), ("least", min, None)):
            ours, theirs = of(pair[name]), of(pair["imports"])
            yield Result(
                f"{name}, {what} of {len(pair[name])}",
                f"{ours:.3f} s",
                f"imports {theirs:.3f} s",
                ours / theirs,
                "ours / imports",
                goal,
                {"seconds": pair},
            )
    for name, args in verbs.items():
        found, case = _loaded(args), f"{name} loads"
        ours, against = ", ".join(found) or "none", f"of {', '.join(HEAVY)}"
        yield Result(case, ours, against, len(found), "of them", ("<=", 0), {"loaded": found})


def _runner(args: list[str]) -> Callable[[Any], Any]:
    command = [sys.executable, *args]
    return lambda _: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _loaded(args: list[str]) -> list[str]:
    """The heavy packages in `sys.modules` after `tlm` has run with these arguments."""
    program = (
        "import sys; from tlmtool.cli import run; run(sys.argv[2:])\n"
        "print(*(m for m in sys.argv[1].split(',') if m in sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, ",".join(HEAVY), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr.split()
