"""What tests of checkpoint folders share: one with a tokenizer, and ways to change its files."""

import json
from pathlib import Path

from conftest import pico, word_tokenizer
from safetensors.torch import load_file, save_file

from tlmtool.cli import run
from tlmtool.models.folder import Folder
from tlmtool.models.saving import save

RANK = ("--rank", "2", "--calibration", "none")


def masked_bert(folder: Path) -> Path:
    """A bert with a language-model head and its tokenizer."""
    made = save(pico("bert", "lm"), folder)
    word_tokenizer().save_pretrained(made)
    return made


def read_config(folder: Path) -> dict:
    return Folder(folder).config


def compressed(folder: Path, *more: str) -> Path:
    """A folder that `tlm compress` makes of another."""
    out = folder.parent / "out"
    assert run(["compress", str(folder), *RANK, "--out", str(out), "-q", *more]) == 0
    return out


def edit(folder: Path, **changes) -> None:
    """config.json with keys changed; None takes one out."""
    file = folder / "config.json"
    kept = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def rewrite(folder: Path, change) -> None:
    """The file of weights, changed."""
    file = folder / "model.safetensors"
    held = {key: value.contiguous() for key, value in change(load_file(file)).items()}
    save_file(held, file, {"format": "pt"})


def without(part):
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


def heard(read, folder, **more):
    """(what is read, the warnings)"""
    told = []
    return read(folder, warn=told.append, **more), told
