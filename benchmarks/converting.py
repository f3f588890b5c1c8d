"""What a converted attention gives after equal steps of training, row by row.

    python benchmarks/converting.py --out minilm.json --model minilm --data stsb/
    python benchmarks/converting.py --out smollm2.json --model smollm2 --data train.txt \\
        --layers "best 1;best 2;best 4;best 8" --batch 4 --length 128 --steps 60

A row names a kernel and the layers that get it. An encoder learns the sentences of a folder of
scored pairs and is scored by Spearman on its development split; a decoder learns windows of a text
and is scored on the end of it, in nats above the dense model. Counts of layers take those that cost
least by themselves. A row is written as soon as it is there and is not made again.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.compression.calibration import prepared
from tlmtool.compression.choosing import chosen
from tlmtool.compression.conversion import convert
from tlmtool.data.batching import joined_ids
from tlmtool.data.language import joined_split
from tlmtool.data.lessons import lesson
from tlmtool.data.windows import to_learn, windows
from tlmtool.files.writing import write_whole
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.perplexity import perplexity
from tlmtool.models import checkpoint
from tlmtool.models.attending import attention_sites, projections
from tlmtool.models.kernels import switched_off
from tlmtool.recipe.building import build
from tlmtool.training.distilling import Distilled
from tlmtool.training.imitation import Imitation
from tlmtool.training.objectives import Objective
from tlmtool.training.recovery import training_of
from tlmtool.training.teaching import distilled


class MixerAlone(DimensionWise):
    """The local mixer without a kernel: the control that each row is compared with."""

    def apply(self, q: Any, k: Any, v: Any, tensors: Any, *more: Any, **kwargs: Any) -> Any:
        off = {name: x if name in self.local else 0 * x for name, x in tensors.items()}
        return super().apply(q, k, v, off, *more, **kwargs)


KERNELS = {
    "cosine": DimensionWise(mixer=5),
    "features": DimensionWise(f="features", mixer=5),
    "features without a mixer": DimensionWise(f="features"),
    "mixer alone": MixerAlone(mixer=5),
}


@dataclass(frozen=True)
class Row:
    kernel: str
    layers: str

    @property
    def name(self) -> str:
        return f"{self.kernel}, {self.layers}"


class Bench:
    """The dense model, its texts, and how a model is scored."""

    def __init__(self, given: argparse.Namespace):
        self.given = given
        self.dense = checkpoint.load(given.model).eval()
        self.tokenizer = checkpoint.load_tokenizer(given.model)
        self.windows = not Path(given.data).is_dir()
        tokens = given.steps * given.batch * given.length
        if self.windows:
            split = joined_split(given.data)
            self.ids = joined_ids(self.tokenizer, split.held, given.held + 1)
            learned = to_learn(self.tokenizer, split.rest, given.length, tokens, given.data)
            self.rows = learned.rows
            texts: Any = windows(self.tokenizer, split.rest, given.length, given.calibration)
        else:
            self.found = lesson(given.data)
            every = max(1, len(self.found.sentences) * 16 // given.calibration)
            self.rows, texts = self.found.sentences, self.found.sentences[::every]
        wanted = self.dense, self.tokenizer, texts, given.length, given.calibration
        self.batches = prepared(*wanted)
        self.before = self.score(self.dense)

    def score(self, model: Any, tokens: int | None = None) -> float:
        """The loss in nats, over all tokens or the first of them; or Spearman."""
        if self.windows:
            ids = self.ids if tokens is None else self.ids[: tokens + 1]
            length = self.given.length
            return perplexity(model, ids, window=length, stride=length).mean
        task = self.found.task
        read = {"read": (task, self.found.scored), "max_length": 128}
        return evaluate(task.name, model, self.tokenizer, **read)["models"][0]["score"]

    def trained(self, model: Any) -> list[tuple[int, float]]:
        """Train in place; returns the course of the loss."""
        given = self.given
        asked = {"model": given.model, "attention": "dimensionwise", "recover": given.steps}
        asked |= {"recover-batch": given.batch, "data": given.data, "seed": given.seed}
        asked |= {"recover-lr": given.lr}
        recipe = training_of(build("compress", asked, []), given.length if self.windows else None)
        never = {"evaluate_every": given.steps + 1, "max_length": given.length}
        recipe = replace(recipe, training=replace(recipe.training, **never))
        if self.windows:
            objective: Objective = Imitation(model, self.dense, self.rows)
        else:
            plain = Objective(model, self.tokenizer, self.rows, None, given.length)
            objective = Distilled(model, self.dense, plain, None, 2.0, False)
        return distilled(recipe, model, objective, given.data).course(5)

    def converted(self, kernel: Any, paths: list[str]) -> tuple[Any, list[float]]:
        torch.manual_seed(self.given.seed)
        model = copy.deepcopy(self.dense).requires_grad_(True)  # as a teacher it is frozen
        records = convert(model, dict.fromkeys(paths, kernel), self.batches)
        return model, [each["output_error"] for each in records]

    def order(self) -> list[dict[str, Any]]:
        """What each layer costs alone, the least first."""
        self.first = self.score(self.dense, self.given.probe)
        paths, kernel = attention_sites(self.dense), KERNELS["features"]
        model, _ = self.converted(kernel, paths)
        found = [{"site": path, "cost": self._alone(model, path)} for path in paths]
        return sorted(found, key=lambda each: each["cost"])

    def _alone(self, model: Any, path: str) -> float:
        alone = copy.deepcopy(self.dense)
        for site in (path, projections(model, path)["output"]):
            alone.base_model.set_submodule(site, model.base_model.get_submodule(site))
        cost = self.score(alone, self.given.probe) - self.first
        return cost if self.windows else -cost

    def measured(self, row: Row, order: list[dict[str, Any]]) -> dict[str, Any]:
        """The figures of a row, made now."""
        if row.layers.startswith("best "):
            best = {each["site"] for each in order[: int(row.layers.removeprefix("best "))]}
            paths = [path for path in attention_sites(self.dense) if path in best]
        else:
            paths = chosen(self.dense, None if row.layers == "all" else row.layers)
        started, found = time.perf_counter(), {"row": row.name, "paths": paths}
        model, found["errors"] = self.converted(KERNELS[row.kernel], paths)
        found["converted"] = self.score(model)
        found["course"] = self.trained(model)
        found["trained"] = self.score(model)
        with switched_off(model):
            found["off"] = self.score(model)
        return found | {"seconds": time.perf_counter() - started}


def markdown(held: dict[str, Any]) -> str:
    less = held["dense"] if held["decoder"] else 0.0  # a decoder's are nats above the dense model
    lines = ["| row | converted | trained | kernels off |", "| --- | ---: | ---: | ---: |"]
    for each in held["rows"]:
        cells = (f"{each[name] - less:.4f}" for name in ("converted", "trained", "off"))
        lines.append(f"| {each['row']} | {' | '.join(cells)} |")
    return "\n".join([f"dense {held['dense']:.4f}", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", required=True, type=Path, help="JSON file, read if it is there")
    add("--model", default="minilm", help="a folder, a Hub id, or a name that tlm knows")
    add("--data", required=True, help="a folder of scored pairs, or a text for a decoder")
    add("--layers", default="all", help="as of tlm, by semicolon; 'best 2' takes the least costly")
    add("--kernels", default="cosine,features,mixer alone", help=f"of {', '.join(KERNELS)}")
    add("--steps", type=int, default=200, help="of each row")
    add("--batch", type=int, default=16, help="texts or windows of a step")
    add("--length", type=int, default=32, help="tokens of a text or window at most")
    add("--lr", type=float, default=1e-3, help="learning rate")
    add("--calibration", type=int, default=16_384, help="tokens that kernels are fitted on")
    add("--held", type=int, default=4_096, help="tokens that a decoder is scored on")
    add("--probe", type=int, default=1_024, help="tokens of these that the layers are chosen by")
    add("--seed", type=int, default=0)
    given = parser.parse_args()
    bench = Bench(given)
    settings = {k: str(v) for k, v in vars(given).items() if k not in ("layers", "kernels")}
    held = {
        "settings": settings,
        "decoder": bench.windows,
        "dense": bench.before,
        "order": [],
        "rows": [],
    }
    held = json.loads(given.out.read_text("utf-8")) if given.out.exists() else held
    if "best" in given.layers and not held["order"]:
        held["order"] = bench.order()
        write_whole(given.out, json.dumps(held, indent=1) + "\n")
    for layers in given.layers.split(";"):
        for kernel in given.kernels.split(","):
            row = Row(kernel, layers)
            if row.name in [each["row"] for each in held["rows"]]:
                continue
            held["rows"].append(bench.measured(row, held["order"]))
            write_whole(given.out, json.dumps(held, indent=1) + "\n")
    print(markdown(held))


if __name__ == "__main__":
    main()
