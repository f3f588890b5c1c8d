"""docs/serving.md leads where it says: its commands and its Python run, in their order."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import pico, word_tokenizer

from tlmtool.cli import run

PAGE = Path(__file__).parent.parent / "docs" / "serving.md"
BLOCK = re.compile(r"^(?P<before>[^\n]*)\n+```(?P<kind>sh|python)\n(?P<text>.*?)^```$", re.M | re.S)
NEEDS = ("onnxruntime", "onnxscript", "openvino", "nncf", "peft", "gguf", "sentence_transformers")
MARK = "Not run"  # the paragraph above a block that no test runs begins so


def blocks() -> list[tuple[str, str, bool]]:
    """(kind, text, whether it is run) of each block of the page."""
    found = BLOCK.finditer(PAGE.read_text("utf-8"))
    return [(each["kind"], each["text"], not each["before"].startswith(MARK)) for each in found]


def needed(text: str) -> set[str]:
    """The packages that a block needs."""
    formats = {"onnx": {"onnxruntime", "onnxscript"}, "openvino": {"openvino", "nncf"}}
    found = {name for name in NEEDS if re.search(rf"^(import|from) {name}\b", text, re.M)}
    return found.union(*(formats.get(name, {name}) for name in re.findall(r"--to (\w+)", text)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder where `minilm` and `smollm2` are pico models."""
    folder = tmp_path_factory.mktemp("serving")
    for name, family, head in (("minilm", "bert", "base"), ("smollm2", "llama", "lm")):
        pico(family, head).save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    return folder


def commands(text: str) -> list[list[str]]:
    """The commands of a block, with pico models for those that are downloaded."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    known = ("minilm", "smollm2")
    return [[f"./{word}" if word in known else word for word in each] for each in words if each]


def test_every_block_runs_or_is_marked(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    names, left = {"__name__": "page"}, set()
    for kind, text, runs in blocks():
        if not runs:
            continue
        lacking = {name for name in needed(text) if find_spec(name) is None}
        wrote = set(re.findall(r"out/[\w-]+", text))
        if lacking or wrote & left:
            left |= wrote  # what follows reads what this would have written
            continue
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for program, verb, *rest in commands(text):
            assert program == "tlm"
            assert run([verb, *rest, "-q"]) == 0, capsys.readouterr().err
    assert (place / "out" / "half").is_dir()


def test_the_page_has_blocks_of_both_kinds_and_marks_some():
    found = blocks()
    assert {kind for kind, _, _ in found} == {"sh", "python"}
    assert len(re.findall(r"^```(?:sh|python)$", PAGE.read_text("utf-8"), re.M)) == len(found)
    assert any(not runs for _, _, runs in found) and all(t.strip() for _, t, _ in found)
