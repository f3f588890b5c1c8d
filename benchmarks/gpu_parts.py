"""The parts that benchmarks/gpu.sh runs: a command, a limit in seconds, where its figures stand."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = ("parameters", "seconds", "quality", "peak_memory_bytes", "peak_memory_kind", "warnings")
Read = Callable[[str, Path], dict[str, Any]]  # of standard output, and of the file it may write


@dataclass(frozen=True)
class Part:
    """A command that runs in the folder of the repository, for at most `limit` seconds."""

    name: str
    command: list[str]
    limit: float
    read: Read


def counts(out: str, _: Path) -> dict[str, Any]:
    """{outcome: how many tests} of the last line of pytest."""
    last = out.strip().splitlines()[-1]
    return {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}


def figures(_: str, file: Path) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def report(out: str, _: Path) -> dict[str, Any]:
    """The short figures of a report of tlm; the long lists of sites are left out."""
    found = json.loads(out)
    return {key: found[key] for key in KEPT if key in found}


def benchmark(script: str, rows: str, changed: str, device: str, quick: bool) -> list[str]:
    """A command that runs rows of a benchmark; `changed` are its sizes for --quick."""
    start = f"import {script} as b; {changed if quick else 'pass'}; b.main(b.__doc__, b.ROWS)"
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); {start}"
    given = ["--only", rows, "--device", device, *(["--quick", "--threads", "1"] if quick else [])]
    return [sys.executable, "-c", program, *given]


def parts(device: str, quick: bool, scratch: Path, smollm2: Path | None) -> list[Part]:
    """All parts. Figures of a benchmark go to SCRATCH/NAME.json. Without a folder of smollm2 one of
    its shape is made."""

    def compress(name: str, limit: float, shape: str, model: Path) -> Part:
        given = ["--calibration-tokens", "2048" if quick else "16384", "--device", device, "--json"]
        words = ["compress", model, "--keep", "0.8", "--sites", "attention,ffn", "--method", "svd"]
        words += [*given, "--out", scratch / f"smaller {name}"]
        program = [sys.executable, HERE / "gpu_models.py", shape, model, *words]
        return Part(name, [str(word) for word in program], limit, report)

    def timed(name: str, limit: float, script: str, rows: str, changed: str, *more: str) -> Part:
        command = benchmark(script, rows, changed, device, quick)
        file = ["--out", str(scratch / f"{name}.json"), *more]
        return Part(name, command + file, limit, figures)

    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    some = ["tests/test_gpu.py", "tests/test_gpu_attention.py", "-k", "merging or the_future"]
    low = [] if quick else ["--dtype", "bfloat16"]
    kernels = "b.LENGTHS, b.RUNS = (64, 128), 2"
    rows = "step" if quick else "step,papers"
    steps = "b.MICRO, b.LENGTH, b.TURNS, b.GROWTHS = 1, 8, 1, ((3.0, 3),)"
    small = ["none" if smollm2 else "smollm2", smollm2 or scratch / "smollm2"]
    large = ["1b", scratch / "1b"]
    if quick:
        small, large = ["pico", scratch / "small"], ["pico", scratch / "large"]
    return [
        Part("tests marked gpu", tests + (some if quick else ["tests"]), 130, counts),
        timed("kernels", 60, "attention", "encoder,causal", kernels, *low),
        timed("over-parameterized steps", 70, "overparam", rows, steps),
        timed("decode", 90, "decode", "model,methods", "b.TURNS = 3"),
        compress("compress smollm2", 120, *small),
        compress("compress a shape of 1 B", 240, *large),
    ]
