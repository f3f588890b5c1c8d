"""Size and time against perplexity: bits alone, low rank alone, and both.

    python benchmarks/fronts.py --out fronts.json --text wikitext-2/valid.txt \\
        --train-text wikitext-2/train.txt
    python benchmarks/fronts.py --out fronts.json --table --picture fronts.png

Every row is a checkpoint that a command of tlm makes from an earlier row, the first of them the
model in bfloat16. It is scored by `tlm evaluate` and written as soon as it is there: an interrupted
run goes on where it stopped. Time is that of the model beside the dense one, in turns. Weights are
floats once they are loaded, so bits do not change it: such a row has the time of the row that it
was rounded from.
"""

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

# By default waiting threads spin, which stalls short operations on a busy machine. Now they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # also of the processes that this one starts

# isort: split
import torch
from decode import STEPS, steps
from four_models import WINDOW, Record
from four_models_rows import BOTH, TLM, ran
from fronts_table import ALONE, beyond, markdown, picture

import tlmtool
from tlmtool.measuring.passes import in_turns
from tlmtool.models.checkpoint import device_of

PREFILL = 512  # tokens that are read at once
RUNS = 15  # turns of each model; their median is taken

SVD, PLAIN = ("--method", "svd"), ("--method", "narrow", "--plain")
SMALLER = {  # {a row with fewer parameters: its flags}
    "keep 0.8": ("--keep", "0.8", *SVD),
    "keep 0.6": ("--keep", "0.6", *SVD),
    "keep 0.6, plain": ("--keep", "0.6", *PLAIN),
}

Row = tuple[str, tuple[str, ...]]  # (the row that it is made from, the command and its flags)


def _rows() -> dict[str, Row]:
    """{name: row}. To add one is to add a line: each is a command of tlm."""
    found: dict[str, Row] = {
        "int8": ("dense", ("quantize", "--bits", "8")),
        "int4": ("dense", ("quantize", "--bits", "4")),
        "int4, tokens int8": ("dense", ("quantize", "--bits", "4", "--embedding-bits", "8")),
    }
    for name, flags in SMALLER.items():
        found[name] = ("dense", ("compress", *flags, *BOTH))
        found[f"{name}, int8"] = (name, ("quantize", "--bits", "8"))
        found[f"{name}, int4"] = (name, ("quantize", "--bits", "4"))
    return found


ROWS = _rows()
assert set(ALONE) <= {"dense", *ROWS}


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file, read if it is there")
    parser.add_argument("--table", action="store_true", help="only print the table of that file")
    parser.add_argument("--picture", type=Path, help="png, pdf or svg to draw")
    parser.add_argument("--model", default="smollm2", help="folder or name (default: smollm2)")
    parser.add_argument("--rows", default=";".join(ROWS), help="names, separated by semicolons")
    parser.add_argument("--text", type=Path, help="text to score on")
    parser.add_argument("--train-text", type=Path, help="text to calibrate on")
    parser.add_argument("--tokens", type=int, default=40_000, help="tokens of --text to score on")
    parser.add_argument("--calibration-tokens", type=int, default=65_536, help="of --train-text")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--device", default="auto", help="as of tlm compress")
    given = parser.parse_args()
    given.rows = given.rows.split(";")
    if wrong := [each for each in given.rows if each not in ROWS]:
        parser.error(f"--rows {wrong[0]}: there is {'; '.join(ROWS)}")
    return given


class Fronts:
    """The rows of one model: their checkpoints in a folder for the time of the run, their figures
    in a file."""

    def __init__(self, given: argparse.Namespace, record: Record, work: Path):
        self.given, self.record, self.work = given, record, work

    def folder(self, name: str) -> Path:
        """The checkpoint of a row, made if it is not there."""
        out = self.work / name.replace(" ", "-").replace(",", "")
        if out.is_dir():
            return out
        if name == "dense":
            tlmtool.save(tlmtool.load(self.given.model, dtype="bfloat16"), out, source=self.model)
            return out
        source, (verb, *rest) = ROWS[name]
        command = [*TLM, verb, str(self.folder(source)), *rest, "--out", str(out), "--json", "-q"]
        if verb == "compress":
            tokens = str(self.given.calibration_tokens)
            command += ["--calibration", str(self.given.train_text)]
            command += ["--calibration-tokens", tokens]
        ran([*command, "--device", self.given.device])
        return out

    @property
    def model(self) -> str:
        """The model as it was named."""
        return str(self.given.model)

    def measured(self, name: str) -> dict[str, Any]:
        """The figures of a row."""
        given, place = self.given, self.folder(name)
        task = ["--task", "perplexity", "--data", str(given.text), "--tokens", str(given.tokens)]
        task += ["--window", str(WINDOW), "--stride", str(WINDOW)]
        command = [*TLM, "evaluate", str(place), *task, "--device", given.device, "--json", "-q"]
        scored = ran(command)[0]["models"][0]
        names = ("loss", "perplexity", "file_bytes", "bits_per_weight")
        found = {"model": self.model, "row": name, **{key: scored[key] for key in names}}
        source, command_of = ROWS.get(name, ("", ()))
        if command_of[:1] == ("quantize",):
            return found | {"timed_as": source}
        return found | {"milliseconds": self.times(place)}

    def times(self, place: Path) -> dict[str, dict[str, float]]:
        """Milliseconds of reading PREFILL tokens and of one more, of the dense model and of this
        one."""
        device = device_of(self.given.device)
        kind = torch.float32 if device.type == "cpu" else torch.bfloat16
        folders = {"dense": self.folder("dense"), "this": place}
        models = {k: tlmtool.load(f, dtype=kind, device=str(device)) for k, f in folders.items()}
        text = torch.randint(0, 1000, (1, PREFILL), device=device)
        with torch.no_grad():
            reads = {k: partial(m, text, use_cache=True) for k, m in models.items()}
            read = in_turns(reads, RUNS, device)
            token = in_turns({k: steps(m) for k, m in models.items()}, RUNS, device)
        return {
            "prefill": {k: each["median"] for k, each in read.items()},
            "decode": {k: each["median"] / STEPS for k, each in token.items()},
        }


def main() -> None:
    given = flags()
    if not given.table:
        torch.set_num_threads(given.threads)
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
        names = ("tokens", "calibration_tokens", "threads")
        record = Record(given.out, {name: getattr(given, name) for name in names})
        work = given.out.absolute().with_suffix(".work")
        work.mkdir(exist_ok=True)
        fronts = Fronts(given, record, work)
        for name in ("dense", *given.rows):
            if record.row(fronts.model, name):
                continue
            try:
                row = fronts.measured(name)
            except (RuntimeError, tlmtool.Failure) as error:
                row = {"model": fronts.model, "row": name, "failed": str(error)}
            record.add(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        shutil.rmtree(work)
    rows = json.loads(given.out.read_text("utf-8"))["rows"]
    print(markdown(rows))
    print("\n".join(beyond(rows)))
    if given.picture:
        picture(rows, given.picture)


if __name__ == "__main__":
    main()
