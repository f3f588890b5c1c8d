"""What each method loses: minilm compressed without training, scored on pairs of sentences.

    python benchmarks/quality.py --pairs stsb-en-dev.csv --train stsb-en-train.csv

Each method and budget has a row: the share of parameters kept, Spearman of the pairs by the cosine
of mean-pooled states, the relative error of the features, and seconds. The calibration text is one
of three. `task text` is 1,024 sentences spread over the training pairs, without the last 1,000, on
which choices were made. `own text` comes with tlm, without the texts that `tlm compress` holds out
to measure on. `none` weighs nothing.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tlmtool.compression.compress import compress
from tlmtool.data.labelled import sentence_pairs
from tlmtool.data.language import held_out
from tlmtool.data.reading import texts
from tlmtool.measuring.counting import count_parameters
from tlmtool.measuring.evaluation import evaluate
from tlmtool.models import checkpoint

BOTH = "attention,ffn"
PLAIN = {"allocate": "uniform", "sequential": False}
THIRD = {"keep": 0.32}
ROWS = [  # (group, what, text, settings of `compress`)
    ("attention, rank 8", "btd", "none", {"rank": 8}),
    ("attention, rank 8", "btd, weighed once", "task", {"rank": 8, "sequential": False}),
    ("attention, rank 8", "btd", "task", {"rank": 8}),
    ("attention, rank 8", "btd", "own", {"rank": 8}),
    ("attention, keep 0.32", "svd, uniform", "none", {**THIRD, "method": "svd", **PLAIN}),
    ("attention, keep 0.32", "tucker, uniform", "none", {**THIRD, "method": "tucker", **PLAIN}),
    ("attention, keep 0.32", "cp, uniform", "none", {**THIRD, "method": "cp", **PLAIN}),
    ("attention, keep 0.32", "mpo, uniform", "none", {**THIRD, "method": "mpo", **PLAIN}),
    ("attention, keep 0.32", "tucker", "task", {**THIRD, "method": "tucker"}),
    ("attention, keep 0.32", "svd", "task", {**THIRD, "method": "svd"}),
    ("attention, keep 0.32", "auto", "task", THIRD),
]
# At keep 0.3 narrow is refused: attention, which it leaves dense, is a third of these sites.
for _keep in (0.5, 0.3):
    _group, _both = f"attention + ffn, keep {_keep}", {"keep": _keep, "sites": BOTH}
    ROWS += [
        (_group, "svd, uniform", "none", {**_both, "method": "svd", **PLAIN}),
        (_group, "svd, uniform, weighed once", "task", {**_both, "method": "svd", **PLAIN}),
        (_group, "svd, weighed once", "task", {**_both, "method": "svd", "sequential": False}),
        (_group, "svd, uniform", "task", {**_both, "method": "svd", "allocate": "uniform"}),
        (_group, "svd", "task", {**_both, "method": "svd"}),
        (_group, "auto", "task", _both),
        (_group, "auto", "own", _both),
    ]
ROWS.append(
    (
        "attention + ffn, keep 0.5",
        "narrow",
        "task",
        {"keep": 0.5, "sites": BOTH, "method": "narrow"},
    )
)


def spread(pairs: list, count: int) -> list[str]:
    """`count` sentences, spread evenly over the pairs."""
    sentences = [text for pair in pairs for text in pair[:2]]
    return [sentences[int(k * len(sentences) / count)] for k in range(min(count, len(sentences)))]


def measured(settings: dict, found: list[str], pairs: list, tokenizer, dense) -> dict:
    """One row: compresses a fresh copy, scores it, and compares its features with `dense`."""
    torch.manual_seed(0)
    model = checkpoint.load("minilm")
    started = time.perf_counter()
    outcome = compress(model, tokenizer=tokenizer, texts=found or None, **settings)
    seconds = time.perf_counter() - started
    similarity = evaluate("similarity", model, tokenizer, pairs)["models"][0]["score"]
    sentences = [pair[0] for pair in pairs]
    features = evaluate("features", model, tokenizer, sentences, against=dense)
    return {
        "parameters": count_parameters(model),
        "spearman": similarity,
        "feature_error": features["models"][0]["score"],
        "seconds": seconds,
        "decompositions": sorted({s["decomposition"]["name"] for s in outcome.sites}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, help="csv of sentence1, sentence2, score")
    parser.add_argument("--train", required=True, help="the same, to calibrate on")
    parser.add_argument("--only", default="", help="rows whose group starts with this")
    parser.add_argument("--text", default="", help="rows calibrated so: none, task or own")
    parser.add_argument("--out", help="write the rows as JSON")
    given = parser.parse_args()
    pairs, train = sentence_pairs(given.pairs), sentence_pairs(given.train)
    own, _ = held_out(texts(None))
    calibration = {"none": [], "task": spread(train[:-1000], 1024), "own": own}
    tokenizer = checkpoint.load_tokenizer("minilm")
    dense = checkpoint.load("minilm")
    score = evaluate("similarity", dense, tokenizer, pairs)["models"][0]["score"]
    table = Table(title=f"minilm on {len(pairs)} pairs: dense {score:.4f}", title_justify="left")
    for name in ("sites, budget", "method", "text", "parameters", "spearman", "features", "s"):
        table.add_column(name, justify="left" if name in ("sites, budget", "method") else "right")
    rows = [{"group": "dense", "spearman": score, "parameters": count_parameters(dense)}]
    console = Console(width=110)
    chosen = [r for r in ROWS if r[0].startswith(given.only) and given.text in ("", r[2])]
    for group, what, text, settings in chosen:
        row = measured(settings, calibration[text], pairs, tokenizer, dense)
        rows.append({"group": group, "method": what, "text": text, **row})
        figures = [f"{row['parameters']:,}", f"{row['spearman']:.4f}"]
        figures += [f"{row['feature_error']:.3f}", f"{row['seconds']:.0f}"]
        table.add_row(group, what, text, *figures)
        print(group, what, text, *figures, flush=True)
    console.print(table)
    if given.out:
        Path(given.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
