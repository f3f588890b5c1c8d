"""What `--method auto` costs beside `--method svd`: CPU seconds of planning and fitting, in turns.

    python benchmarks/auto.py                     # minilm at keep 0.5, some minutes
    python benchmarks/auto.py smollm2 --keep 0.8 --sites 'layers.1?.*' --texts 8 --runs 1

Both compress a fresh copy of the model on the same texts, one after the other, so that other work
on the machine slows both. CPU seconds of all threads are compared, by medians over the runs.
"""

import argparse
import copy
import json
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from tlmtool.compression.compress import compress
from tlmtool.data.reading import texts
from tlmtool.models import checkpoint

GOAL = 1.5  # auto / svd


def measured(model: Any, given: argparse.Namespace, method: str) -> dict[str, Any]:
    """One compression: CPU seconds in all, and how many sites became what."""
    model, tokenizer = copy.deepcopy(model), checkpoint.load_tokenizer(given.model)
    chosen = {"sites": given.sites, "keep": given.keep, "max_length": given.max_length}
    started = time.process_time()
    found = texts(given.text)[: given.texts]
    outcome = compress(model, method=method, tokenizer=tokenizer, texts=found, **chosen)
    return {
        "seconds": time.process_time() - started,
        "tokens": outcome.tokens,
        "sites": dict(Counter(each["decomposition"]["name"] for each in outcome.sites)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", default="minilm", help="a folder, or a name that tlm knows")
    add("--keep", type=float, default=0.5)
    add("--sites", default="attention,ffn")
    add("--text", help="a file of texts (default: those that come with tlm)")
    add("--texts", type=int, default=256, help="how many of them")
    add("--max-length", type=int, default=128, help="tokens of each text")
    add("--runs", type=int, default=3)
    add("--out", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    model = checkpoint.load(given.model)
    found: dict[str, list[dict[str, Any]]] = {"svd": [], "auto": []}
    for _ in range(given.runs):
        for method, rows in found.items():
            rows.append(measured(model, given, method))
            print(f"{method}: {rows[-1]}", flush=True)
    spent = {method: median(row["seconds"] for row in rows) for method, rows in found.items()}
    ratio = spent["auto"] / spent["svd"]
    print(
        f"{given.model}, keep {given.keep:g}, {found['svd'][0]['tokens']:,} tokens: svd "
        f"{spent['svd']:.1f} s, auto {spent['auto']:.1f} s of CPU; auto / svd {ratio:.2f}, "
        f"goal <= {GOAL:g} {'met' if ratio <= GOAL else 'missed'}"
    )
    if given.out:
        given.out.write_text(json.dumps({"ratio": ratio, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
