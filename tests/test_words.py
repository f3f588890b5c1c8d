"""Code and its words hang together: docstrings, doctests and names."""

import ast
import doctest
import io
import re
import tokenize
from importlib import import_module
from pathlib import Path

import pytest

import tlmtool
from tlmtool.decompositions import NAMES, named

PACKAGE = Path(tlmtool.__file__).parent
ROOT = Path(__file__).parent.parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [".".join(f.relative_to(PACKAGE.parent).with_suffix("").parts) for f in FILES]
# Names for what has another name here, which docs/README.md gives
FORBIDDEN = {"tensor_set", "ffn_1", "decompress", "bond", "truncation", "scheme", "fold", "form"}
ROOMS = {"utils", "common", "core", "helpers"}
LONGEST_FILE, LONGEST_FUNCTION = 250, 60  # lines; what is longer holds more than one idea

BESIDE = sorted(f for name in ("tests", "benchmarks", "docs") for f in (ROOT / name).rglob("*.py"))

EVERY = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
ALL = pytest.mark.parametrize(
    "file", FILES + BESIDE, ids=lambda f: str(f.relative_to(PACKAGE.parent if f in FILES else ROOT))
)


def bare(source: str) -> list[str]:
    """Public classes and functions of a file without a docstring; methods may speak by name."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    public = [n for n in ast.parse(source).body if isinstance(n, kinds) and n.name[0] != "_"]
    return [node.name for node in public if ast.get_docstring(node) is None]


def forbidden(source: str) -> set[str]:
    """Names in code that are, or hold between underscores, a word that has another name here."""
    names = tokenize.generate_tokens(io.StringIO(source).readline)
    lower = {t.string.lower() for t in names if t.type == tokenize.NAME}
    return {w for w in FORBIDDEN for name in lower if re.search(rf"(^|_){w}s?($|_)", name)}


def long_functions(source: str) -> list[str]:
    """Functions of more than 60 lines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [n.name for n in found if (n.end_lineno or 0) - n.lineno >= LONGEST_FUNCTION]


@EVERY
def test_what_is_public_says_what_it_is(file):
    assert not bare(file.read_text())


@EVERY
def test_one_concept_has_one_word(file):
    assert not forbidden(file.read_text())


@ALL
def test_a_file_says_what_it_is_and_has_one_concept(file):
    source = file.read_text()
    assert ast.get_docstring(ast.parse(source)), f"{file.name} opens without a docstring"
    assert len(source.splitlines()) <= LONGEST_FILE
    assert not long_functions(source)
    assert file.stem not in ROOMS and file.parent.name not in ROOMS


def test_these_checks_can_fail():
    assert bare('def f():\n    """A."""\n\n\ndef g(): ...\ndef _h(): ...') == ["g"]
    assert bare("class A:\n    def m(self): ...\n") == ["A"]
    assert forbidden("bond_size = 3\nx.decompress()\nbonds = 1") == {"bond", "decompress"}
    assert forbidden("form = 1\nfree_forms = 2") == {"form"}
    assert not forbidden("format = transform = uniform = platform = 1")
    assert long_functions("def f():\n" + "    1\n" * 60) == ["f"]
    assert long_functions("def f():\n" + "    1\n" * 59) == []
    assert forbidden('cut = {"truncation": True}  # bond\nmanifold = bondage = 1') == set()


NEEDS = {"tlmtool.models.served": "vllm"}  # {module: what is imported with it, no dependency}


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module):
    if module.endswith("__main__"):
        return
    if module in NEEDS:
        pytest.importorskip(NEEDS[module])
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert (
        doctest.testmod(import_module(module.removesuffix(".__init__")), optionflags=flags).failed
        == 0
    )


def test_there_are_examples():
    assert sum(">>> " in file.read_text() for file in FILES) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_decomposition_names_its_source(name):
    assert re.search(r"(19|20)\d\d", named(name).reference)
    assert re.search(r"\b(rank|R)\b", named(name).__doc__)
