"""What tests of the command line share: checkpoints, texts, and what commands say."""

import json
import random
from pathlib import Path

import torch
from conftest import WORDS, pico, word_tokenizer
from safetensors.torch import load_file
from torch import Tensor

from tlmtool.cli import run

draw = random.Random(0)
TEXTS = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(40)]


def saved(folder: Path, family: str = "bert", head: str = "base", **more) -> Path:
    """A dense checkpoint with its tokenizer. `more`: as `pico` takes it."""
    pico(family, head, **more).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def tlm(*args) -> int:
    """The exit code of a command."""
    return run([*map(str, args)])


def told(capsys, *args, code: int = 0) -> dict:
    """The one JSON object on the stdout of a quiet command, which says nothing on stderr."""
    capsys.readouterr()
    assert tlm(*args, "--json", "-q") == code
    out, err = capsys.readouterr()
    assert err == "" or code
    found = json.loads(out)
    assert found["schema_version"] == 2 and found["verb"] == args[0]
    return found


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def tensors(folder: Path) -> dict[str, Tensor]:
    """All that the weight files of a folder hold."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def same_weights(a: Path, b: Path) -> bool:
    """To the last bit."""
    ours, theirs = tensors(a), tensors(b)
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def furnished(folder: Path) -> Path:
    """The folder, with a dense bert, a text, and pairs of sentences with scores in it."""
    saved(folder / "dense", head="lm")
    (folder / "text.txt").write_text("\n".join(TEXTS))
    pairs = [f"{a},{b},{k}" for k, (a, b) in enumerate(zip(TEXTS[:9], TEXTS[9:18], strict=True))]
    (folder / "pairs.csv").write_text("\n".join(pairs))
    return folder
