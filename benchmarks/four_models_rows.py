"""The rows of `four_models.py`: the commands that make and score each one, and its bytes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tlmtool.models.folder import Folder
from tlmtool.models.weights import FLOATS

RIVALS = Path(__file__).with_name("four_models_rivals.py")
BOTH = ("--sites", "attention,ffn")
TLM = [sys.executable, "-m", "tlmtool"]
STORED = 2  # bytes of a number that is not rounded: bfloat16


@dataclass(frozen=True)
class Row:
    """What makes a row: arguments of `tlm compress`, or of a rival of that kind; none for dense.

    `like`: the row whose share of the parameters it takes.
    """

    about: str
    make: tuple[str, ...] = ()
    like: str = ""

    @property
    def kind(self) -> str:
        """`dense`, `compress`, or the kind of a rival."""
        return self.make[0] if self.make else "dense"


def _beside(row: str, size: str, *sites: str) -> dict[str, Row]:
    """The two rivals of a row of tlm that keep as many parameters of the same sites."""
    return {
        f"{row}-whitened": Row(f"whitened SVD, {size}", ("whitened", *sites), row),
        f"{row}-svd": Row(f"plain SVD, {size}", ("svd", *sites), row),
    }


def _shares() -> dict[str, Row]:
    """tlm at two shares of attention and feed-forward matrices, and its rivals."""
    found = {}
    for keep in ("0.8", "0.6"):
        flag, make = f"`--keep {keep}`", ("compress", "--keep", keep, *BOTH)
        found[f"keep-{keep}"] = Row(f"tlm {flag}, `--method svd`", (*make, "--method", "svd"))
        found[f"keep-{keep}-auto"] = Row(f"tlm {flag}", make)
        found[f"keep-{keep}-plain"] = Row(
            f"tlm {flag}, `--method narrow --plain`", (*make, "--method", "narrow", "--plain")
        )
        found |= _beside(f"keep-{keep}", f"as {flag}", *BOTH)
    return found


ROWS = {
    "dense": Row("dense"),
    "int8": Row("int8", ("round", *BOTH, "--bits", "8")),
    "int8-all": Row("int8, tokens too", ("round", *BOTH, "--bits", "8", "--embeddings")),
    "int4": Row("int4", ("round", *BOTH, "--bits", "4")),
    "int4-all": Row("int4, tokens too", ("round", *BOTH, "--bits", "4", "--embeddings")),
    **_shares(),
    "rank-8": Row("tlm `--rank 8`", ("compress", "--rank", "8")),
    **_beside("rank-8", "as `--rank 8`", "--sites", "attention"),
}


def command_of(
    row: Row, model: str, out: Path, calibration: Sequence[str], keep: float | None
) -> list[str]:
    """The command that makes a row at `out`. `calibration`: the flags that name the text; `keep`:
    the share that the row takes over."""
    rest = [model, *row.make[1:], "--out", str(out)]
    if row.kind == "compress":
        return [*TLM, "compress", *rest, *calibration, "--json", "-q"]
    share = [] if keep is None else ["--keep", repr(keep)]
    text = calibration if row.kind == "whitened" else ()
    return [sys.executable, str(RIVALS), row.kind, *rest, *share, *text]


def ran(command: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """(the JSON that a process prints, its seconds and its peak of resident bytes).

    Raises RuntimeError with the last line that it wrote where it fails.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        if process.returncode:
            lines = err.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"it ended with {process.returncode}")
        cost = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}
        return json.loads(out.read()), cost | {"peak_rss_bytes": 1024 * usage.ru_maxrss}


def sizes(folder: Path | str, found: dict[str, Any]) -> dict[str, int]:
    """Parameters of a checkpoint, and the bytes of its weights.

    `found`: the figures of `round`, if its weights are rounded. A rounded weight takes its bits,
    with a scale for each group, and any other number two bytes.
    """
    floats = [each for each in Folder.of(str(folder)).tensors.values() if each.dtype in FLOATS]
    numbers, packed = sum(prod(each.shape) for each in floats), found.get("rounded", 0)
    coded = packed * found.get("bits", 0) // 8 + STORED * found.get("scales", 0)
    return {"parameters": numbers, "weight_bytes": STORED * (numbers - packed) + coded}
