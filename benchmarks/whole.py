"""Rows of compress.py on whole compressions: a language model, and an earlier version of tlm."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from dense import NO_MINILM, minilm, skipped
from processes import BOTH, KEEP, TEXTS
from side_by_side import Result, Setup
from torch import Tensor

from tlmtool import compress, load
from tlmtool.compression.calibration import prepared
from tlmtool.compression.compress import TOKENS
from tlmtool.data import reading
from tlmtool.failure import MissingDependency
from tlmtool.measuring.outputs import last_hidden
from tlmtool.models.checkpoint import load_tokenizer
from tlmtool.models.finding import resolve

WINDOW, PASSES, MORE = 512, 12, 60  # tokens; the goal is so many passes and so many seconds more
EARLIER = "TLM_EARLIER"  # names a checkout of an earlier version, such as a git worktree of it
SMOLLM2 = "TLM_SMOLLM2"  # names a folder of it where its package is not installed
SPENT = """
import json, sys, time
from tlmtool import compress, load
from transformers import AutoTokenizer
folder, keep, sites = sys.argv[1:]
model, tokenizer, texts = load(folder), AutoTokenizer.from_pretrained(folder), json.load(sys.stdin)
started = time.process_time()
compress(model, keep=float(keep), sites=sites, method="svd", tokenizer=tokenizer, texts=texts)
print(time.process_time() - started)
"""  # a program for any version of tlm: the CPU seconds of one compression


def language(setup: Setup) -> Iterator[Result]:
    """smollm2 at keep 0.8 by svd: its time beside 12 forward passes over the text and 60 s"""
    try:
        folder = Path(os.environ.get(SMOLLM2) or resolve("smollm2"))
    except MissingDependency:
        yield skipped("smollm2", f"no package holds it, and {SMOLLM2} names no folder")
        return
    tokens = 65_536 if setup.full else 2_048 if setup.quick else 16_384
    model, tokenizer = load(folder, dtype=setup.dtype, device=setup.device), load_tokenizer(folder)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(1000, model.config.vocab_size, (tokens // WINDOW, WINDOW), generator=draw)
    windows = _windows(rows)
    with torch.no_grad():
        batches, started = prepared(model, tokenizer, windows, WINDOW, TOKENS), time.perf_counter()
        for batch in batches:
            last_hidden(model, batch)
    one = time.perf_counter() - started
    chosen: dict[str, Any] = {"keep": 0.8, "sites": BOTH, "method": "svd"}
    started = time.perf_counter()
    outcome = compress(model, tokenizer=tokenizer, texts=windows, max_length=WINDOW, **chosen)
    ours = time.perf_counter() - started
    yield Result(
        f"smollm2, {tokens:,} tokens, {str(setup.dtype).removeprefix('torch.')}",
        f"{ours:.0f} s",
        f"pass {one:.1f} s",
        ours / (PASSES * one + MORE),
        f"ours / ({PASSES} passes + {MORE} s)",
        ("<=", 1.0),
        {"seconds": ours, "pass": one, "stages": outcome.seconds},
    )


def _windows(rows: Tensor) -> Any:
    """Windows of tokens as they come from joined text. Random tokens cost as much as others."""
    return {"input_ids": rows.tolist(), "special_tokens_mask": torch.zeros_like(rows).tolist()}


def earlier(setup: Setup) -> Iterator[Result]:
    """minilm at keep 0.5 by svd, beside the version of tlm that TLM_EARLIER names: CPU seconds"""
    case = f"minilm, {TEXTS} texts" if setup.quick else "minilm, all texts that come with tlm"
    there, folder = os.environ.get(EARLIER), minilm()
    if folder is None or not there:
        yield skipped(case, NO_MINILM if folder is None else f"{EARLIER} names no checkout")
        return
    spent: dict[str, list[float]] = {"ours": [], "earlier": []}
    texts = reading.texts(None, None, 0)[: TEXTS if setup.quick else None]
    for _ in range(1 if setup.quick else 3):
        for name, place in (("ours", Path(__file__).parents[1]), ("earlier", Path(there))):
            known = os.environ | {"PYTHONPATH": str(place.absolute())}
            command = [sys.executable, "-c", SPENT, str(folder), str(KEEP), BOTH]
            done = subprocess.run(
                command, input=json.dumps(texts), stdout=subprocess.PIPE, text=True, env=known
            )
            if done.returncode:
                raise SystemExit(f"{place}: the version there failed")
            spent[name].append(float(done.stdout.splitlines()[-1]))
    ours, theirs = (sorted(each)[len(each) // 2] for each in spent.values())
    ratio, of, goal = theirs / ours, "earlier / ours", (">=", 3.0)
    yield Result(case, f"{ours:.1f} s of CPU", f"{theirs:.1f} s", ratio, of, goal, spent)
