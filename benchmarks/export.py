"""Dense and compressed sentence models in torch and in ONNX Runtime: bytes, time, and score.

    python benchmarks/export.py --pairs stsb-en-dev.csv --out export.json

The first step is `tlm compress MODEL --keep 0.5 --sites attention,ffn`, then `tlm export --to onnx`
of both models with and without `--bits 8`. All of them embed the same pairs of sentences by the
mean over tokens. Passes are timed in one process, in turns, for each number of threads. No row is
trained on pairs.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# By default waiting threads spin, which stalls short operations on a busy machine. Now they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# isort: split
import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoTokenizer

from tlmtool.cli import run
from tlmtool.exporting._session import of_file
from tlmtool.measuring.passes import in_turns
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder

LENGTH = 128  # tokens of each text that is timed; longer texts shift time into attention
BATCHES, THREADS = (1, 32), (1, 2)
Embed = Callable[[dict[str, torch.Tensor]], torch.Tensor]  # inputs -> hidden states (B, N, E)


def torch_model(folder: str) -> Embed:
    """A checkpoint as transformers runs it."""
    model = checkpoint.load(folder, dtype="float32")

    @torch.inference_mode()
    def call(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**given).last_hidden_state

    return call


def onnx_model(folder: str) -> Embed:
    """An export, with as many threads as torch has now."""
    session = of_file(Path(folder) / "onnx" / "model.onnx")
    return lambda given: session(given)[0]


def bytes_of(folder: str) -> int:
    """Bytes of the weights, or of the graph."""
    file = Path(folder) / "onnx" / "model.onnx"
    return file.stat().st_size if file.exists() else Folder.of(folder).file_bytes


def score(embed: Embed, tokenizer: Any, pairs: list[tuple[str, str, float]]) -> float:
    """Spearman's correlation of the cosine of two embeddings with the scores of people."""
    texts = [text for pair in pairs for text in pair[:2]]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), 32):
        part = order[start : start + 32]
        given = tokenizer(
            [texts[i] for i in part], padding=True, truncation=True, max_length=LENGTH
        )
        given = {name: torch.tensor(value) for name, value in given.items()}
        mask = given["attention_mask"][:, :, None]
        mean = (embed(given) * mask).sum(1) / mask.sum(1)
        mean = torch.nn.functional.normalize(mean, dim=1).numpy()
        found |= dict(zip(part, mean, strict=True))
    cosines = [float(found[i] @ found[i + 1]) for i in range(0, len(texts), 2)]
    return float(spearmanr(cosines, [pair[2] for pair in pairs]).statistic)


def made(model: str, keep: str, work: Path) -> dict[str, tuple[str, Callable[[str], Embed]]]:
    """{row: (folder, what loads it)}; runs the commands that make them."""
    small = str(work / "small")
    commands: list[list[str]] = [
        ["compress", model, "--keep", keep, "--sites", "attention,ffn", "--out", small]
    ]
    rows: dict[str, tuple[str, Callable[[str], Embed]]] = {}
    for name, folder in (("dense", model), (f"keep {keep}", small)):
        rows[f"{name}, torch"] = (folder, torch_model)
        for kind, flags in (("float32", []), ("int8", ["--bits", "8"])):
            out = str(work / f"{Path(folder).name}-{kind}")
            commands.append(["export", folder, "--to", "onnx", "--out", out, "--runs", "1", *flags])
            rows[f"{name}, onnx {kind}"] = (out, onnx_model)
    for words in commands:
        if not Path(words[words.index("--out") + 1]).exists():
            print("tlm", *words, file=sys.stderr, flush=True)
            if code := run([*words, "-q"]):
                sys.exit(code)
    return rows


def measured(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Bytes and score of each row, and the milliseconds of a pass for each batch and threads."""
    rows = made(given.model, given.keep, work)
    with open(given.pairs, newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if len(line) == 3]
    pairs = [(a, b, float(c)) for a, b, c in lines][given.skip : given.skip + given.most]
    tokenizer = AutoTokenizer.from_pretrained(Folder.of(given.model).path)
    torch.set_num_threads(max(THREADS))
    found: dict[str, Any] = {}
    for name, (folder, load) in rows.items():
        value = score(load(folder), tokenizer, pairs)
        found[name] = {"file_bytes": bytes_of(folder), "spearman": value, "latency_ms": {}}
        print(name, found[name], file=sys.stderr, flush=True)
    draw = torch.Generator().manual_seed(0)
    for threads in THREADS:
        torch.set_num_threads(threads)
        models = {name: load(folder) for name, (folder, load) in rows.items()}
        for batch in BATCHES:
            ids = torch.randint(1000, 20_000, (batch, LENGTH), generator=draw)
            ones = torch.ones_like(ids)
            inputs = {"input_ids": ids, "attention_mask": ones, "token_type_ids": 0 * ones}
            works = {name: partial(model, inputs) for name, model in models.items()}
            for name, times in in_turns(works, given.runs).items():
                found[name]["latency_ms"][f"{batch} x {LENGTH}, {threads} thread"] = times
    return {"model": given.model, "keep": given.keep, "pairs": len(pairs), "rows": found}


def table(found: dict[str, Any]) -> str:
    """The rows in Markdown."""
    rows = found["rows"]
    settings = list(next(iter(rows.values()))["latency_ms"])
    head = ["", "MB", "Spearman", *(f"ms, {each}" for each in settings)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, row in rows.items():
        times = [f"{row['latency_ms'][each]['median']:.1f}" for each in settings]
        lines.append([name, f"{row['file_bytes'] / 1e6:.1f}", f"{row['spearman']:.4f}", *times])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", default="minilm", help="a sentence model with mean pooling")
    add("--pairs", required=True, help="csv of sentence1, sentence2, score, without a header")
    add("--keep", default="0.5")
    add("--skip", type=int, default=0, help="pairs to leave out at the start")
    add("--most", type=int, default=None, help="pairs to read (default: all)")
    add("--runs", type=int, default=11, help="timed passes of each row")
    add(
        "--work", type=Path, default=Path("out/export"), help="folder of models; kept ones are used"
    )
    add("--out", type=Path, required=True, help="JSON with every figure")
    given = parser.parse_args()
    given.most = given.most or sys.maxsize
    found = measured(given, given.work)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
