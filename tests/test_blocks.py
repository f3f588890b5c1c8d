"""Shell blocks of README and docs beside `tlm`: benchmarks, packages, tools. Each can be typed."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_docs import PAGES, ROOT, blocks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHON = {"python", "python3", ".venv/bin/python"}
TOOLS = {"pytest", "ruff", "mypy", "pre-commit", "source", ".ci/run", "cd", "git"}
FOREIGN = {"vllm", "lm_eval"}  # programs that open a checkpoint
FOLDER = ROOT / "benchmarks"


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command in a shell block, without what is set before it."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r" (?:&&|\|) ", line):
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"\w+=.*", words[0]):
                        del words[0]
                    if words:
                        yield str(page.relative_to(ROOT)), words


EVERY = [*commands()]
SCRIPTS = [(p, w[1:]) for p, w in EVERY if w[0] in PYTHON and w[1].startswith("benchmarks/")]
CODE = [words[2] for _, words in EVERY if words[0] in PYTHON and words[1] == "-c"]
INSTALLS = [w for _, w in EVERY if Path(w[0]).name == "pip"]


def test_every_command_is_of_a_kind_that_is_checked():
    """Those of tlm are checked by tests/test_docs.py, others here."""
    for page, words in EVERY:
        name = Path(words[0]).name
        ours = name == "tlm" or "tlmtool" in words
        python = words[0] in PYTHON and words[1] in ("-c", "-m", "docs/generate.py")
        script = words[0] in PYTHON and words[1].startswith("benchmarks/")
        known = ours or python or script or name == "pip" or words[0] in TOOLS | FOREIGN
        assert known, f"{page}: nothing checks {shlex.join(words)}"


class Parsed(Exception):
    """The arguments of a script are good; nothing more of it runs."""


@pytest.mark.parametrize(("page", "words"), SCRIPTS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_benchmark_takes_its_arguments(page, words, monkeypatch):
    """By its own parser."""

    def parse(parser, args=None, namespace=None):
        _, others = parser.parse_known_args(words[1:])
        assert not others, f"{page}: {words[0]} has no {others}"
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    try:
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    finally:
        ours = {str(file) for file in FOLDER.glob("*.py")}
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) in ours:
                del sys.modules[name]


def test_what_is_installed_is_there():
    for words in INSTALLS:
        assert words[1] == "install"
        wanted = [re.fullmatch(r"(?:tlmtool|\.)\[([\w,-]+)\]", word) for word in words]
        for found in filter(None, wanted):
            assert {*found[1].split(",")} <= {*EXTRAS}, words
        if "-c" in words:
            assert (ROOT / words[words.index("-c") + 1]).exists()


def test_files_of_tools_are_there():
    for page, words in EVERY:
        if words[0] in TOOLS | PYTHON:
            for word in words[1:]:
                if re.fullmatch(r"(tests|docs|benchmarks|\.ci)/[\w./-]+", word):
                    assert (ROOT / word).exists(), (page, word)


def test_the_line_that_converts_old_weights_does(tmp_path):
    (code,) = CODE
    tied = torch.ones(2, 2)
    torch.save({"a": tied, "b": tied, "c": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    made = load_file(tmp_path / "model.safetensors")
    assert {*made} == {"a", "b", "c"} and torch.equal(made["b"], tied)
