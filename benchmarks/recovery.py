"""What recovery by divergence gives back to a compressed language model, row by row.

    python benchmarks/recovery.py --out recovery.json --model smollm2 --device cuda \\
        --train-text wikitext-2/train.txt --text wikitext-2/valid.txt
    python benchmarks/recovery.py --out recovery.json --rows '0.8-all-*,dense'
    python benchmarks/recovery.py --out try.json --device cpu --quick

The model is compressed once for each share, and every row starts from that checkpoint. A row is
written as soon as it is there and is not made again, so an interrupted run goes on where it
stopped. Several processes can share one --out, each with other --rows: the file is locked while a
row is added, and a process that needs a checkpoint waits for the one that makes it.
"""

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu_models import make
from recovery_rows import ROWS, Row, chosen, markdown
from side_by_side import environment

import tlmtool
from tlmtool.data.batching import joined_ids
from tlmtool.data.language import joined_split
from tlmtool.data.reading import joined
from tlmtool.data.windows import AT_A_STEP, LEARNED, to_learn, without
from tlmtool.files.writing import write_whole
from tlmtool.measuring.perplexity import perplexity
from tlmtool.models import checkpoint
from tlmtool.recipe.building import build
from tlmtool.report.progress import EVERY
from tlmtool.training.imitation import Imitation
from tlmtool.training.recovery import training_of
from tlmtool.training.teaching import distilled

SETTINGS = [
    "model",
    "train_text",
    "text",
    "tokens",
    "window",
    "calibration_tokens",
    "batch",
    "quick",
]
QUICK = {"tokens": 600, "window": 32, "calibration_tokens": 512}
FEW = 3  # steps of every row with --quick, each of windows of 16 tokens


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", required=True, type=Path, help="JSON file, read if it is there")
    add("--model", help="a folder, a Hub id, or a name that tlm knows (default: smollm2)")
    add("--train-text", help="text that calibrates and trains (default: the one of tlm)")
    add("--text", help="text that scores (default: the end of --train-text, which is left out)")
    add("--tokens", type=int, default=40_000, help="tokens of --text to score on")
    add("--window", type=int, default=512, help="tokens of a window, and the stride, in scoring")
    add("--calibration-tokens", type=int, default=65_536, help="tokens of --train-text to fit on")
    add("--batch", type=int, default=AT_A_STEP, help="windows of a step")
    add("--rows", default="*", help=f"names or patterns by comma: {', '.join(ROWS)}")
    add("--work", type=Path, help="folder of the checkpoints (default: beside --out)")
    add("--device", default="auto", help="as of tlm compress")
    add("--quick", action="store_true", help="a pico model, and three steps a row")
    add("--table", action="store_true", help="only print the table of --out")
    given = parser.parse_args()
    try:
        given.chosen = chosen(given.rows.split(","))
    except ValueError as error:
        parser.error(str(error))
    given.work = given.work or given.out.absolute().with_suffix(".work")
    given.model = given.model or (str(given.work / "pico") if given.quick else "smollm2")
    if given.quick:
        vars(given).update(QUICK)
    return given


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Within it, no other process is inside the same."""
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


class Record:
    """The JSON file: settings, and the rows that are there, of all processes."""

    def __init__(self, given: argparse.Namespace):
        self.file, self.lock = given.out, given.work / "rows.lock"
        self.settings = {name: getattr(given, name) for name in SETTINGS}
        self.device = checkpoint.device_of(given.device).type

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are there and have not failed."""
        if not self.file.exists():
            return []
        held = json.loads(self.file.read_text("utf-8"))
        if held["settings"] != self.settings:
            raise SystemExit(f"{self.file} was made with {held['settings']}: give another --out")
        return [row for row in held["rows"] if "failed" not in row]

    def add(self, row: dict[str, Any]) -> None:
        with locked(self.lock):
            content = {"settings": self.settings, "environment": environment(self.device)}
            content["rows"] = [*self.rows(), row]
            write_whole(self.file, json.dumps(content, indent=1) + "\n")


class Bench:
    """The dense model, the texts, and the compressed checkpoint that was last asked for."""

    def __init__(self, given: argparse.Namespace):
        self.given = given
        pico = given.work / "pico"
        if given.model == str(pico):
            with locked(given.work / "pico.lock"):
                if not (pico / "config.json").exists():
                    make("pico", pico)
        self.dense = checkpoint.load(given.model, device=given.device)
        self.tokenizer = checkpoint.load_tokenizer(given.model)
        split = joined_split(given.train_text)
        scored = joined(given.text) if given.text else split.held
        whole = split.rest + split.held if given.text else split.rest
        self.text = without(whole, scored, [])
        self.ids = joined_ids(self.tokenizer, scored, given.tokens)
        self.keep, self.model, self.state = None, self.dense, dict[str, Any]()

    def folder(self, keep: float) -> Path:
        """The compressed checkpoint, made by the first process that asks for it."""
        given, folder = self.given, self.given.work / f"keep-{keep}"
        with locked(given.work / f"keep-{keep}.lock"):
            if not folder.exists():
                found = tlmtool.run(
                    "compress",
                    given.model,
                    keep=keep,
                    sites="attention,ffn",
                    method="svd",
                    calibration=given.train_text,
                    calibration_tokens=given.calibration_tokens,
                    device=given.device,
                    out=folder,
                )
                print(f"{folder}: {found.data['seconds']}", file=sys.stderr, flush=True)
        return folder

    def compressed(self, keep: float) -> Any:
        """The compressed model as it was made, also after it was trained."""
        if self.keep != keep:
            self.model = checkpoint.load(self.folder(keep), device=self.given.device)
            self.keep = keep
            self.state = {name: x.clone() for name, x in self.model.state_dict().items()}
        self.model.load_state_dict(self.state)
        return self.model

    def scored(self, model: Any) -> dict[str, Any]:
        """The loss and the perplexity, as of `tlm evaluate --task perplexity`."""
        window = self.given.window
        found = perplexity(model, self.ids, window=window, stride=window)
        return {"loss": found.mean, "perplexity": found.perplexity, "predicted": found.tokens}

    def measured(self, row: Row) -> dict[str, Any]:
        """The figures of a row, made now."""
        found: dict[str, Any] = {"row": row.name, **vars(row)}
        if row.keep is None:
            return found | self.scored(self.dense)
        model = self.compressed(row.keep)
        if row.steps is None:
            found["parameters"] = sum(p.numel() for p in model.parameters())
            return found | self.scored(model)
        return found | self.trained(row, model) | self.scored(model)

    def trained(self, row: Row, model: Any) -> dict[str, Any]:
        """Train by a row, as `tlm compress --recover` does."""
        length = 16 if self.given.quick else row.window or LEARNED
        steps = FEW if self.given.quick else row.steps
        asked = {"model": str(self.given.model), "keep": row.keep, "recover": steps}
        asked |= {"recover-train": row.train, "device": self.given.device}
        longer = 1 if self.given.quick else length // LEARNED  # a step has as many tokens
        asked["recover-batch"] = max(1, self.given.batch // longer)
        asked |= {"recover-lr": row.lr} if row.lr else {}
        sets = [f"recovery.hidden={row.hidden}", f"recovery.schedule={row.schedule}"]
        recipe = build("compress", asked, sets + halves(row.half, model))
        recipe = training_of(recipe, length)
        tokens = row.text or steps * recipe.training.batch * length
        learned = to_learn(self.tokenizer, self.text, length, tokens, str(self.given.train_text))
        objective = Imitation(model, self.dense, learned.rows, weights=(1.0, row.hidden))
        last = started = time.perf_counter()

        def tick(step: int, of: int, note: str) -> None:
            nonlocal last
            if time.perf_counter() - last > EVERY:
                last = time.perf_counter()
                print(f"{row.name}: step {step} of {of}, {note}", file=sys.stderr, flush=True)

        outcome = distilled(recipe, model, objective, learned.source, tick=tick)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "seconds_a_step": seconds / outcome.steps,
            "rate": recipe.training.lr,
            "precision": recipe.training.precision,
            "windows": len(learned.rows),
            "tokens": sum(outcome.sizes),
            "course": outcome.course(10),
        }


def halves(half: str, model: Any) -> list[str]:
    """The setting that trains one half of the layers alone."""
    if not half:
        return []
    many = model.config.num_hidden_layers
    some = range(many // 2) if half == "early" else range(many // 2, many)
    return [f"recovery.layers={','.join(f'*layers.{k}' for k in some)}"]


def main() -> None:
    given = flags()
    given.work.mkdir(parents=True, exist_ok=True)
    record = Record(given)
    if not given.table:
        bench = Bench(given)
        for row in given.chosen:
            if any(row.name == each["row"] for each in record.rows()):
                continue
            try:
                found = bench.measured(row)
            except (RuntimeError, tlmtool.Failure) as error:  # no memory, a loss that is infinite
                found = {"row": row.name, "failed": str(error)}
                torch.cuda.empty_cache()
            record.add(found)
            print(json.dumps(found), file=sys.stderr, flush=True)
    print(markdown(record.rows()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads sleep on a busy machine
    main()
