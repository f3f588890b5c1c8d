"""Tensor attention against softmax attention in models trained from random weights.

All arms take equal steps and hold equal parameters: the feed-forward width makes up the difference.

python benchmarks/scratch.py mlm --data wikitext-2/ --out out/mlm     # goes on if killed
python benchmarks/scratch.py clm --data wikitext-2/ --out out/clm --arms "multilinear decay"

There is one BPE tokenizer, and texts are joined to full blocks. The rate of each arm is chosen on a
slice of train; the development split is read once, at the end of a run. Attention FLOPs are those
that mix the tokens of one text. There is no dropout: nothing is seen twice in so few steps, and
torch's fused softmax attention has none on a CPU, where a step would take three times as long.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from rich import box
from rich.console import Console
from rich.table import Table
from scratch_arms import ARMS, FAMILY, KEYS, MATTER

from tlmtool.data.language import language_splits
from tlmtool.data.vocabulary import trained
from tlmtool.files.writing import write_whole
from tlmtool.measuring.counting import SCORES, count_parameters, forward_flops
from tlmtool.models.checkpoint import load_tokenizer
from tlmtool.models.kernels import converted
from tlmtool.models.surgery import sites
from tlmtool.recipe.building import Recipe, build
from tlmtool.training import finetune, fresh
from tlmtool.training.jobs import prepare
from tlmtool.training.study import NEVER
from tlmtool.training.verdicts import paired

DROPOUT = "0"  # above 0 softmax attention loses its fused kernel on a CPU
SLICE = 20  # every 20th text of train chooses the rates; fewer texts choose less surely


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("kind", choices=list(ARMS))
    add("--data", required=True, type=Path, help="a folder with train.txt and valid.txt")
    add("--out", required=True, type=Path, help="folder of the results")
    add("--arms", help="some of them, separated by | (default: all)")
    add("--layers", type=int, default=4)
    add("--width", type=int, default=128)
    add("--length", type=int, default=512)
    add("--vocabulary", type=int, default=8000)
    add("--batch", type=int, default=4)
    add("--steps", type=int, default=500)
    add("--tune-steps", type=int, default=300)
    add("--rates", default="1e-3,3e-3")
    add("--seeds", type=int, default=3, help="of the arms that matter; others run once")
    add("--device", default="cpu")
    given = parser.parse_args()
    given.arms = given.arms.split("|") if given.arms else list(ARMS[given.kind])
    if unknown := [name for name in given.arms if name not in ARMS[given.kind]]:
        parser.error(f"unknown arm {unknown[0]!r}; known: {' | '.join(ARMS[given.kind])}")
    return given


class Study:
    """Runs the arms and keeps each result in a file."""

    def __init__(self, given: argparse.Namespace):
        self.given, self.family, self.kind = given, FAMILY[given.kind], given.kind
        given.out.mkdir(parents=True, exist_ok=True)
        free = ("out", "arms", "seeds")
        wanted = {key: str(each) for key, each in vars(given).items() if key not in free}
        wanted["dropout"] = DROPOUT
        kept = given.out / "study.json"
        if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != wanted:
            raise SystemExit(f"{given.out} holds a study of other settings: give another --out")
        write_whole(kept, json.dumps(wanted, indent=1) + "\n")
        train, _, _ = language_splits(given.data)
        self.slice = given.out / "slice"
        self.slice.mkdir(exist_ok=True)
        parts = {"train": [t for i, t in enumerate(train) if i % SLICE], "dev": train[::SLICE]}
        for name, texts in parts.items():
            (self.slice / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        self.tokenizer = given.out / "tokenizer"
        if not self.tokenizer.exists():
            made = trained(train, "bpe", given.vocabulary, given.kind, None)
            made.save_pretrained(self.tokenizer)
        self.parameters = self.counted({}, 4 * given.width)

    def recipe(self, arm: dict[str, Any], inner: int, **more: Any) -> Recipe:
        arm, given = dict(arm), self.given
        heads, half, _ = arm.pop("heads", 8), arm.pop("half", False), arm.pop("alone", False)
        sizes = (given.width, given.layers, heads, given.length, inner)
        config = dict(zip(KEYS[self.family], sizes, strict=True))
        if half:  # every other layer, the first one first
            arm["layers"] = ",".join(map(str, range(0, given.layers, 2)))
        common = {
            "from_config": self.family, "tokenizer": str(self.tokenizer), "task": self.kind,
            "pack": True, "max_length": given.length, "batch": given.batch, "device": given.device,
            "data": str(given.data), "dropout": DROPOUT,
        }  # fmt: skip
        sets = [f"config.{key}={value}" for key, value in config.items()]
        made = finetune.resolved(build("finetune", common | arm | more, sets))
        return replace(made, training=replace(made.training, evaluate_every=NEVER))

    @contextmanager
    def source(self, recipe: Recipe) -> Iterator[Path]:
        with TemporaryDirectory() as made:
            fresh.write(recipe, folder := Path(made) / self.family)
            yield folder

    def empty(self, arm: dict[str, Any], inner: int) -> Any:
        """The model of an arm on the meta device: shapes, no numbers."""
        recipe = replace(self.recipe(arm, inner), device="meta")
        auto = transformers.AutoModelForMaskedLM
        head = auto if self.kind == "mlm" else transformers.AutoModelForCausalLM
        with self.source(recipe) as folder, torch.device("meta"):
            return fresh.build(recipe, folder, head, None)

    def counted(self, arm: dict[str, Any], inner: int) -> int:
        return count_parameters(self.empty(arm, inner))

    def inner(self, arm: dict[str, Any]) -> int:
        """The feed-forward width, in eights, that gives an arm as many parameters as softmax."""
        at = 4 * self.given.width
        here, more = self.counted(arm, at), self.counted(arm, 2 * at)
        return max(8, round((at + (self.parameters - here) * at / (more - here)) / 8) * 8)

    def kept(self, name: str, arm: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The result of a run, from its file where there is one."""
        file = self.given.out / f"{name}.json"
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        recipe = self.recipe(arm, self.inner(arm), **more)
        with self.source(recipe) as folder:
            tokenizer = load_tokenizer(folder)
            job = prepare(
                recipe,
                lambda _, head, changes, has: fresh.build(recipe, folder, head, changes),
                tokenizer,
                folder,
            )
        if arm.get("alone"):
            for _, module in converted(job.model):
                module.kernel["kernel"].requires_grad_(False).zero_()
        spent: list[float] = []

        def tick(step: int, of: int, loss: float) -> None:
            spent.append(time.process_time())
            if step % 50 == 0:
                print(f"  {name}: step {step} of {of}, loss {loss:.3f}", flush=True)

        outcome = finetune.train(recipe, job, finetune.accelerator_of(recipe), tick=tick)
        steps = [b - a for a, b in pairwise(spent)]
        found = {
            "loss": job.dev(job.model)["score"],
            "steps": outcome.steps,
            "parameters": count_parameters(job.model),
            "tokens_per_cpu_second": self.given.batch * self.given.length / median(steps or [1e9]),
            "last_train_loss": fmean(outcome.losses[-50:]),
            "rate": recipe.training.lr,
        }
        write_whole(file, json.dumps(found, indent=1) + "\n")
        print(f"{name}: {found['loss']:.4f}", flush=True)
        return found

    def rate(self, name: str, arm: dict[str, Any]) -> float:
        """The rate with the lowest loss on the slice after `--tune-steps`, at seed 0."""
        rates = self.given.rates.split(",")
        if len(rates) == 1:
            return float(rates[0])
        scores = {}
        for rate in rates:
            settings = {"lr": rate, "steps": self.given.tune_steps, "data": str(self.slice)}
            scores[rate] = self.kept(f"{name}-rate{rate}", arm, **settings)["loss"]
        return float(min((r for r in rates if math.isfinite(scores[r])), key=scores.get))


def main() -> None:
    given = flags()
    study, arms = Study(given), ARMS[given.kind]
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for name in given.arms:
            if seed and name not in MATTER:
                continue
            slug = name.replace(", ", "-").replace(" + ", "-").replace(" ", "-")
            rate = study.rate(slug, arms[name])
            settings = {"lr": str(rate), "steps": given.steps, "seed": seed}
            found = study.kept(f"{slug}-seed{seed}", arms[name], **settings)
            results.setdefault(name, []).append(found)
    show(study, results)


def show(study: Study, results: dict[str, list[dict[str, Any]]]) -> None:
    """Prints a row for each arm."""
    given, base = study.given, next(iter(results))
    about = f"{given.layers} layers, width {given.width}, N = {given.length}, {given.steps} steps"
    made = Table(title=f"{given.kind}: {about}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("arm", "loss", "of each seed", "- first", "95 %", "attention FLOPs", "of first",
                 "with projections", "tokens / CPU s", "parameters", "rate"):  # fmt: skip
        made.add_column(name)
    first = None
    for name, found in results.items():
        arm = ARMS[given.kind][name]
        model = study.empty(arm, study.inner(arm))
        parts = forward_flops(model, given.length, 1, sites(model))["by_part"]
        roles = ("query", "key", "value", "qkv", "output")
        mixing = parts.get(SCORES, 0)
        whole = mixing + sum(parts.get(role, 0) for role in roles)
        first = first or (mixing, whole)
        losses = [each["loss"] for each in found]
        both = list(zip(losses, [each["loss"] for each in results[base]], strict=False))
        pair = paired(*map(list, zip(*both, strict=True)))
        interval = pair["interval"]
        made.add_row(
            name,
            f"{fmean(losses):.4f}",
            " ".join(f"{loss:.4f}" for loss in losses),
            f"{pair['difference']:+.4f}" if name != base else "",
            "[{:+.3f}, {:+.3f}]".format(*interval) if interval and name != base else "",
            f"{mixing / 1e6:.0f} M",
            f"{mixing / first[0]:.2f}",
            f"{whole / first[1]:.2f}",
            f"{median(each['tokens_per_cpu_second'] for each in found):.0f}",
            f"{found[0]['parameters']:,}",
            f"{found[0]['rate']:g}",
        )
    Console(width=200, highlight=False).print(made)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
