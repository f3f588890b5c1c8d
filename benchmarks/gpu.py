"""Runs each part of benchmarks/gpu.sh in a process of its own, and writes one JSON.

python benchmarks/gpu.py --out gpu.json: what benchmarks/gpu.sh runs

A part that fails or takes too long is recorded as such, and the others go on. The file is written
after each part, so a run that is stopped has left what it found.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu_parts import HERE, Part, parts
from side_by_side import environment

from tlmtool.failure import Failure
from tlmtool.models.finding import resolve

ALL = 470  # seconds for all parts together: under eight minutes
TAIL = 2000  # characters of output that are kept of a part that failed


def performed(part: Part, scratch: Path, left: float) -> dict[str, Any]:
    """What became of a part: its seconds, and its figures or the end of what it said."""
    limit = min(part.limit, left)
    found: dict[str, Any] = {"part": part.name, "limit": limit, "seconds": 0.0}
    found["outcome"] = "not run, no time was left"
    if limit <= 0:
        return found
    out, start = scratch / "output", time.perf_counter()
    with out.open("w") as file, out.with_suffix(".errors").open("w") as errors:
        process = subprocess.Popen(
            part.command, cwd=HERE.parent, stdout=file, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(limit)
            found["outcome"] = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            found["outcome"] = "out of time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found["seconds"] = round(time.perf_counter() - start, 2)
    said = out.read_text(errors="replace")
    if found["outcome"] != "out of time":
        try:
            found["result"] = part.read(said, scratch / f"{part.name}.json")
        except (OSError, ValueError, IndexError, AttributeError) as error:
            found["outcome"] = found["outcome"].replace("done", f"left no figures: {error}")
    if found["outcome"] != "done":
        found["said"] = (said + out.with_suffix(".errors").read_text(errors="replace"))[-TAIL:]
    return found


def machine(device: str) -> dict[str, Any]:
    """The device and what is installed."""
    found = environment(device)  # its "device" is the name of the GPU
    if device == "cuda":
        found["memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
        found["cuda"] = torch.version.cuda
    return found


def smollm2(asked: str | None) -> Path | None:
    """The folder that was given, or smollm2 where its package is installed, or None."""
    try:
        return resolve(asked or "smollm2")
    except Failure:
        if asked:
            raise SystemExit(f"--model {asked}: there is no model") from None
        return None


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON to write")
    flags.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    flags.add_argument("--quick", action="store_true", help="pico sizes: whether each part works")
    flags.add_argument("--model", metavar="FOLDER", help="smollm2, where its package is missing")
    given = flags.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        flags.error("torch finds no CUDA device here; --device cpu --quick tries the parts without")
    os.environ["TLM_TEST_DEVICE"] = given.device
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    start, found = time.perf_counter(), {"machine": machine(given.device), "quick": given.quick}
    found |= {"complete": False, "parts": []}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        asked = parts(given.device, given.quick, scratch, smollm2(given.model))
        for number, part in enumerate(asked, 1):
            print(f"{part.name} ...", end=" ", flush=True)
            one = performed(part, scratch, ALL - (time.perf_counter() - start))
            print(f"{one['outcome']}, {one['seconds']:.0f} s", flush=True)
            found["parts"].append(one)
            found["seconds"] = round(time.perf_counter() - start, 2)
            found["complete"] = number == len(asked)
            given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    done = sum(each["outcome"] == "done" for each in found["parts"])
    print(f"{done} of {len(found['parts'])} parts done in {found['seconds']:.0f} s: {given.out}")
    return int(done < len(found["parts"]))


if __name__ == "__main__":
    sys.exit(main())
