"""Which over-parameterization makes fine-tuning better: variants x seeds against dense training.

    python benchmarks/gain.py --seeds 0,1 --variants attention          # dense picks its rate first
    python benchmarks/gain.py --seeds 0 --lr 1.4e-4                     # the screen
    python benchmarks/gain.py --seeds 10,11,12,13 --read fresh --lr 1.4e-4 --variants attention-svd
    python benchmarks/gain.py --task cola --data cola/ --steps 268 --batch 32 --read dev --lr 1e-4

All variants train minilm for equal steps. For one seed the batches, the head and the dropout are
the same. Without --lr dense training picks the rate, by its mean score over the first two seeds.
Every variant takes that rate, so that none gains by a badly tuned baseline.

`--read` says what is scored: `screen`, `fresh` or `dev`. `screen` is data to choose on: for grammar
2,000 generated sentences that are not in train, for other tasks a tenth of train. `fresh` is
another 2,000 sentences, and `dev` the development split. Seconds are CPU time of one thread. Each
run is kept in --out, so that a killed search goes on. The variants are in gain_variants.py.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import transformers
from gain_optimizer import Varied
from gain_variants import VARIANTS, Variant
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from tlmtool.data import grammar
from tlmtool.data.batching import batches
from tlmtool.data.labelled import Example
from tlmtool.measuring.metrics import scored
from tlmtool.measuring.outputs import evaluating, inputs_of
from tlmtool.models import checkpoint
from tlmtool.models.surgery import sites
from tlmtool.recipe.building import build
from tlmtool.recipe.schema import Recipe
from tlmtool.training import finetune
from tlmtool.training.jobs import prepare
from tlmtool.training.loop import Trainer
from tlmtool.training.objectives import Labelled
from tlmtool.training.verdicts import paired

RATES = (1e-4, 1.4e-4, 2e-4, 4e-4)
SCORES = ("score", "held_out")
# Most words of a sentence, sentences to train on and to score, and the seeds of those to score.
# Another value makes another task, whose scores do not compare with those in the docs.
WORDS, TRAIN, HELD, DRAWS = 6, 2400, 2000, {"screen": 21, "fresh": 22}


class VariedTrainer(Trainer):
    """A training with a variant's optimizer."""

    def __init__(self, variant: Variant, *given: Any, **more: Any):
        self.variant = variant
        super().__init__(*given, **more)

    def new_optimizer(self, steps: int) -> Varied:
        t = self.training
        warmup = int(t.warmup if t.warmup >= 1 else t.warmup * steps)
        given = (self.model, self.weights, t.lr, t.decay, t.schedule, warmup, steps)
        return Varied(self.variant, *given)

    def learn(self, epoch: int, places: list[int]) -> tuple[float, int]:
        if self.step == int(self.variant.until * self.total):
            self.optimizer.release()
        return super().learn(epoch, places)


def short(count: int, seed: int) -> list[Example]:
    """`count` short sentences of the grammar."""
    found = [each for each in grammar.sentences(8 * count, seed) if each[0].count(" ") < WORDS]
    return [Example(text, None, label) for text, label in found[:count]]


@torch.no_grad()
def measured(objective: Any, examples: list[Example], model: Any) -> dict[str, float]:
    """{"score": of the metric, "held_out": mean cross-entropy in nats} of a classifier."""
    labels = np.array([each.label for each in examples])
    found, total = np.zeros(len(examples), int), 0.0
    seconds = None if examples[0].second is None else [each.second for each in examples]
    texts = [each.first for each in examples]
    with evaluating(model):
        for part in batches(objective.tokenizer, texts, 64, objective.max_length, seconds):
            logits = model(**inputs_of(model, part)).logits.float()
            truth = torch.from_numpy(labels[part.indices])
            total += float(cross_entropy(logits, truth, reduction="sum"))
            found[part.indices] = logits.argmax(-1).numpy()
    held_out = total / len(examples)
    return {"score": scored(objective.task.metrics, found, labels)["score"], "held_out": held_out}


def travelled(start: dict[str, Tensor], model: Any) -> dict[str, list[float]]:
    """{role: [mean of |dW| / |W|, mean stable rank of dW]} over the matrices of a role."""
    found: dict[str, list[tuple[float, float]]] = {}
    for site, w in start.items():
        d = model.base_model.get_submodule(site).weight.detach() - w
        size, largest = float(d.norm()), float(torch.linalg.matrix_norm(d, 2))
        each = (size / float(w.norm()), (size / max(largest, 1e-12)) ** 2)
        found.setdefault(sites(model)[site], []).append(each)
    return {role: [fmean(x) for x in zip(*each, strict=True)] for role, each in found.items()}


def run(recipe: Recipe, variant: Variant, read: str, tokenizer: Any) -> dict[str, Any]:
    """One training, scored at half of its steps and at the end."""
    started, used = time.process_time(), recipe.training
    made_up = used.task == "grammar"
    aside = read == "screen" and not made_up
    found = replace(recipe, training=replace(used, keep_best=aside))
    job = prepare(found, partial(checkpoint.load, dtype="float32"), tokenizer)
    objective, watched = job.objective, job.objective.watched
    if made_up:
        train = short(TRAIN, grammar.SEED)
        watched = [each for each in short(HELD, DRAWS[read]) if each not in train]
        objective = Labelled(job.model, tokenizer, objective.task, train, watched, used.max_length)
    objective.measure = partial(measured, objective, watched)
    every = replace(recipe, strategy=replace(recipe.strategy, name="dynamic"))
    trainer = VariedTrainer(
        variant,
        *(job.model, objective, used, recipe.strategy),
        roles=finetune.competing(every, job.model, set())[0],
        waiting=[],
        accelerator=finetune.accelerator_of(recipe),
        seed=recipe.seed,
    )
    started_at = {site: w.detach().clone() for site, w in trainer.weights.items()}
    outcome = trainer.train()
    ratios = [each.ratio for each in outcome.expansions]
    finetune.finish(recipe, job.model, outcome.expansions)
    half, end = outcome.history[0], outcome.history[-1]
    return {
        "half": {k: half[k] for k in SCORES},
        "end": {k: end[k] for k in SCORES},
        "moved": travelled(started_at, job.model),
        "train": [float(part.mean()) for part in np.array_split(outcome.losses, 3)],
        "step_ratio": fmean(ratios) if ratios else None,
        "seconds": time.process_time() - started,
    }


class Search:
    """Runs named variants, each result kept in one JSON file."""

    def __init__(self, given: argparse.Namespace):
        self.given, self.file = given, Path(given.out)
        self.kept = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.tokenizer = checkpoint.load_tokenizer("minilm")

    def one(self, name: str, seed: int, lr: float) -> dict[str, Any]:
        """The result of a variant at a seed. It is run unless a result is kept."""
        g = self.given
        key = f"{g.task} {g.read} {g.steps}x{g.batch} lr {lr:g} {name} seed {seed}"
        if key not in self.kept:
            variant = VARIANTS[name]
            flags = {"model": "minilm", "task": g.task, "data": g.data, "steps": g.steps}
            flags |= {"batch": g.batch, "lr": lr, "seed": seed, "evaluate-every": g.steps // 2}
            recipe = finetune.resolved(build("finetune", flags | variant.strategy))
            self.kept[key] = run(recipe, variant, g.read, self.tokenizer)
            unfinished = self.file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self.kept, indent=1) + "\n")
            os.replace(unfinished, self.file)
            end = self.kept[key]["end"]
            figures = f"{end['score']:.4f}, loss {end['held_out']:.4f}"
            print(f"{key}: {figures}, {self.kept[key]['seconds']:.0f} s", file=sys.stderr)
        return self.kept[key]

    def rate(self) -> float:
        """The rate at which dense training scores best, over the first two seeds."""
        found = {
            lr: fmean(self.one("dense", s, lr)["end"]["score"] for s in self.given.seeds[:2])
            for lr in self.given.rates
        }
        told = ", ".join(f"{lr:g}: {score:.4f}" for lr, score in found.items())
        print(f"dense: {told}", file=sys.stderr)
        return max(found, key=found.get)

    def table(self, names: list[str], lr: float) -> Table:
        """A row for each variant: means, and paired differences to dense with 95 % intervals."""
        seeds = self.given.seeds
        title = f"{self.given.task}, {self.given.steps} steps, rate {lr:g}, {len(seeds)} seeds"
        heads = ("score", "- dense", "held-out loss", "- dense", "at half", "- dense", "train", "s")
        table = Table("variant", *heads, title=title, box=box.MARKDOWN, title_justify="left")
        runs = {name: [self.one(name, s, lr) for s in seeds] for name in ["dense", *names]}
        for name, found in runs.items():
            row = []
            for at, what in (("end", "score"), ("end", "held_out"), ("half", "held_out")):
                ours, dense = ([r[at][what] for r in rs] for rs in (found, runs["dense"]))
                pair = paired(ours, dense)
                low, high = pair["interval"] or (0, 0)
                apart = f"{pair['difference']:+.4f}"
                apart += f" [{low:+.3f}, {high:+.3f}]" if pair["interval"] else ""
                row += [f"{fmean(ours):.4f}", "" if name == "dense" else apart]
            row += [f"{fmean(r['train'][-1] for r in found):.4f}"]
            table.add_row(name, *row, f"{fmean(r['seconds'] for r in found):.0f}")
        return table


def main() -> None:
    def listed(kind: Any) -> Any:
        return lambda text: [kind(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="grammar", help="grammar, or a labelled task with --data")
    parser.add_argument("--data", help="a GLUE folder")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, help="the rate (default: dense's best of --rates)")
    parser.add_argument("--rates", type=listed(float), default=list(RATES))
    parser.add_argument("--seeds", type=listed(int), default=[0, 1])
    parser.add_argument(
        "--variants", type=listed(str), default=[n for n in VARIANTS if n != "dense"]
    )
    parser.add_argument("--read", choices=("screen", "fresh", "dev"), default="screen")
    parser.add_argument(
        "--out", default="gain.json", help="file of results; those in it are not run again"
    )
    given = parser.parse_args()
    if given.read == ("dev" if given.task == "grammar" else "fresh"):
        parser.error(f"--read {given.read} does not go with --task {given.task}")
    transformers.logging.set_verbosity_error()
    search = Search(given)
    lr = given.lr or search.rate()
    Console(width=170).print(search.table(given.variants, lr))


if __name__ == "__main__":
    main()
