"""Four real models compressed without training, beside plain SVD and rounding to int8 and int4.

    python benchmarks/four_models.py --out four-models.json \\
        --pairs stsb-en-dev.csv --train-pairs stsb-en-train.csv \\
        --text wikitext-2/valid.txt --train-text wikitext-2/train.txt
    python benchmarks/four_models.py --out four-models.json --table

Every row is made by a process of its own, and scored by `tlm evaluate` in another. It is written as
soon as it is there, and not made again: an interrupted run goes on where it stopped.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

# By default waiting threads spin, which stalls short operations on a busy machine. Now they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # also of the processes that this one starts

# isort: split
from four_models_rows import ROWS, TLM, command_of, ran, sizes
from four_models_table import markdown
from quality import spread
from side_by_side import environment

from tlmtool.data.labelled import sentence_pairs
from tlmtool.files.writing import write_whole
from tlmtool.models.checkpoint import device_of

MODELS = {  # a folder, a Hub id, or a name that tlm knows
    "minilm": "minilm",
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
    "smollm2": "smollm2",
    "gemma3": "gemma3-270m",
}
ENCODERS = ("minilm", "mpnet")  # scored on pairs of sentences; the others predict tokens
WINDOW = 512  # tokens of a window, and how far it moves on: perplexities of others differ
CHOICES = 1000  # training pairs at the end that calibrate nothing: choices were made on them


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file, read if it is there")
    parser.add_argument("--table", action="store_true", help="only print the table of that file")
    parser.add_argument("--models", default=",".join(MODELS), help="names by comma")
    parser.add_argument("--rows", default=",".join(ROWS), help="names by comma")
    for name, known in MODELS.items():
        parser.add_argument(f"--{name}", default=known, help=f"folder or name (default: {known})")
    parser.add_argument("--pairs", type=Path, help="csv of pairs that score an encoder")
    parser.add_argument("--train-pairs", type=Path, help="csv of pairs that calibrate one")
    parser.add_argument("--text", type=Path, help="text that scores a language model")
    parser.add_argument("--train-text", type=Path, help="text that calibrates one")
    parser.add_argument("--tokens", type=int, default=40_000, help="tokens of --text to score on")
    parser.add_argument("--calibration-tokens", type=int, default=16_384, help="of --train-text")
    parser.add_argument("--calibration-texts", type=int, default=1024, help="of --train-pairs")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--device", default="auto", help="as of tlm compress")
    given = parser.parse_args()
    for name, known in (("models", MODELS), ("rows", ROWS)):
        asked = getattr(given, name).split(",")
        if wrong := [each for each in asked if each not in known]:
            parser.error(f"--{name} {wrong[0]}: there is {', '.join(known)}")
        setattr(given, name, asked)
    return given


class Record:
    """The JSON file: settings, and the rows that are there."""

    def __init__(self, file: Path, settings: dict[str, Any]):
        self.file, self.settings, self.rows = file, settings, list[dict[str, Any]]()
        if file.exists():
            held = json.loads(file.read_text("utf-8"))
            self.rows = [row for row in held["rows"] if "failed" not in row]
            if held["settings"] != settings:
                raise SystemExit(f"{file} was made with {held['settings']}: give another --out")

    def row(self, model: str, name: str) -> dict[str, Any] | None:
        """The row of a model, if it is there."""
        found = (r for r in self.rows if (r["model"], r["row"]) == (model, name))
        return next(found, None)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        content = {"settings": self.settings, "environment": environment("cpu"), "rows": self.rows}
        write_whole(self.file, json.dumps(content, indent=1) + "\n")


def scoring(model: str, folder: str, given: argparse.Namespace) -> list[str]:
    """The command that scores a checkpoint."""
    task = ["--task", "similarity", "--data", str(given.pairs)]
    if model not in ENCODERS:
        task = ["--task", "perplexity", "--data", str(given.text), "--tokens", str(given.tokens)]
        task += ["--window", str(WINDOW), "--stride", str(WINDOW)]
    return [*TLM, "evaluate", folder, *task, "--device", given.device, "--json", "-q"]


def calibration(model: str, given: argparse.Namespace, work: Path) -> list[str]:
    """The flags that name the text a model is calibrated on."""
    if model not in ENCODERS:
        tokens = str(given.calibration_tokens)
        return ["--calibration", str(given.train_text), "--calibration-tokens", tokens]
    file = work / "sentences.txt"
    pairs = sentence_pairs(given.train_pairs)[:-CHOICES]
    write_whole(file, "\n".join(spread(pairs, given.calibration_texts)) + "\n")
    return ["--calibration", str(file)]


def measured(
    model: str, name: str, given: argparse.Namespace, record: Record, work: Path
) -> dict[str, Any]:
    """The figures of one row, made and scored now."""
    row, source, folder = ROWS[name], getattr(given, model), work / "checkpoint"
    found: dict[str, Any] = {"model": model, "row": name, "threads": given.threads}
    if (device := device_of(given.device).type) != "cpu":
        found["device"] = environment(device)["device"]
    report, place = dict[str, Any](), source
    if row.make:
        shutil.rmtree(folder, ignore_errors=True)
        like = record.row(model, row.like)
        if row.like and like is None:
            raise RuntimeError(f"it keeps as much as {row.like}, which is not there")
        keep = like["keep"] if like else None
        text = calibration(model, given, work)
        command = command_of(row, source, folder, text, keep)
        report, cost = ran([*command, "--device", given.device])
        found |= {**cost, "peak_memory_bytes": report["peak_memory_bytes"]}
        found |= {"keep": report.get("keep"), "tokens": report.get("tokens")}
        if row.kind == "compress":
            found["keep"] = report["parameters"]["keep"]
            found |= {"tokens": report["calibration"]["tokens"], "stages": report["seconds"]}
        place = str(folder)
    found |= sizes(place, report)
    scored, found["scoring"] = ran(scoring(model, place, given))
    return found | {"metric": scored["metric"], "score": scored["models"][0]["score"]}


def main() -> None:
    given = flags()
    if given.table:
        print(markdown(json.loads(given.out.read_text("utf-8"))["rows"]))
        return
    names = ("tokens", "calibration_tokens", "calibration_texts")
    record = Record(given.out, {name: getattr(given, name) for name in names})
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    work = given.out.absolute().with_suffix(".work")
    work.mkdir(exist_ok=True)
    for model in given.models:
        for name in given.rows:
            if record.row(model, name):
                continue
            try:
                row = measured(model, name, given, record, work)
            except RuntimeError as error:
                row = {"model": model, "row": name, "failed": str(error)}
            record.add(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    shutil.rmtree(work)
    print(markdown(record.rows))


if __name__ == "__main__":
    main()
