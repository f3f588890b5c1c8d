"""Imports point down the list of rooms in tlmtool/__init__.py, without a circle inside a room; and
family names stand in one file."""

import ast
import io
import re
import sys
import tokenize
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import tlmtool
from tlmtool.models.architectures import ARCHITECTURES

ROOT = Path(tlmtool.__file__).parent
ROOMS = re.findall(r"^    (\w+) {2,}\w", tlmtool.__doc__, re.M)  # from the top to the ground
MATHS = ("decompositions", "attention")
FREE = {"__init__", "__main__"}  # the front doors
FAMILIES = rf"\b({'|'.join(map(re.escape, ARCHITECTURES))})\b"


@cache
def files() -> dict[str, Path]:
    """{module below tlmtool: file}"""
    paths = sorted(ROOT.rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(module: str, source: str) -> set[str]:
    """Absolute names of what a file imports, also inside functions."""
    package = f"tlmtool.{module}".rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def ours(module: str, source: str) -> set[str]:
    """The files of ours that a file imports."""
    known = files()
    found = set()
    for name in imports(module, source):
        parts = name.split(".")
        if parts[0] != "tlmtool":
            continue
        longest = (".".join(parts[1:n]) for n in range(len(parts), 0, -1))
        whole = (f for n in longest for f in (n, f"{n}.__init__".strip(".")) if f in known)
        found.add(next(whole))
    return found - {module}


def upward(module: str, source: str) -> list[str]:
    """Imports of a file from a room above its own."""
    if module in FREE:
        return []
    return [
        f"{module} imports {other}"
        for other in sorted(ours(module, source))
        if other not in FREE and ROOMS.index(room(other)) < ROOMS.index(room(module))
    ]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, where there are such."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def words(source: str) -> str:
    """The code without comments and docstrings."""
    tree = ast.parse(source)
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        node.body[0].lineno
        for node in ast.walk(tree)
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(
        t.string
        for t in tokens
        if t.type != tokenize.COMMENT and not (t.type == tokenize.STRING and t.start[0] in docs)
    )


def named_families(source: str) -> set[str]:
    code = words(source).replace("llama.cpp", "")  # a program, and no family
    return {found.lower() for found in re.findall(FAMILIES, code, re.IGNORECASE)}


def test_every_room_is_in_the_list_and_there():
    assert {room(module) for module in files()} - FREE == set(ROOMS)
    assert len(ROOMS) == len(set(ROOMS))


@pytest.mark.parametrize("module", [m for m in files() if m not in FREE])
def test_imports_point_down(module):
    assert not upward(module, files()[module].read_text())


@pytest.mark.parametrize("name", ROOMS)
def test_no_files_of_a_room_import_each_other_in_a_circle(name):
    inside = {m: ours(m, path.read_text()) for m, path in files().items() if room(m) == name}
    assert not circle({m: {o for o in others if room(o) == name} for m, others in inside.items()})


def test_an_arrow_up_and_a_circle_are_found():
    assert upward("data.reading", "from ..models import surgery") == []
    assert upward("models.surgery", "from ..data.reading import texts") == [
        "models.surgery imports data.reading"
    ]
    assert upward("decompositions.svd", "def f():\n    from ..models import states") == [
        "decompositions.svd imports models.states"
    ]
    assert upward("failure", "import tlmtool.report.report") == ["failure imports report.report"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("module", [m for m in files() if room(m) in MATHS])
def test_the_maths_imports_torch_and_tensorly_only(module):
    source = files()[module].read_text()
    allowed = {"torch", "tensorly", *sys.stdlib_module_names}
    others = {n.split(".")[0] for n in imports(module, source)} - allowed - {"tlmtool"}
    assert not others
    assert {room(m) for m in ours(module, source)} <= {room(module)}


@pytest.mark.parametrize("module", files())
def test_names_of_families_stand_in_one_file(module):
    found = named_families(files()[module].read_text())
    assert found if module == "models.architectures" else not found


def test_a_name_in_code_is_found_and_one_in_prose_is_not():
    assert named_families("x = 'bert'\n") == {"bert"}
    assert named_families("from transformers.models.gpt2 import X") == {"gpt2"}
    assert named_families('"""As bert does."""\n\n\ndef f():\n    """llama"""  # t5\n') == set()
    assert named_families("optional = adopt(bertha)\n") == set()
