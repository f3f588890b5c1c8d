"""Imports only point down the house (DESIGN section 2), and family names stand in one file."""

import ast
import io
import re
import sys
import tokenize
from importlib.util import resolve_name
from pathlib import Path

import pytest

import tlmtool

ROOT = Path(tlmtool.__file__).parent
# From the top of the house to the ground; files between two bars may import each other.
ORDER = """
    cli.__init__ | cli.app | cli.flags cli.terminal cli.stopping | cli.explaining
    | commands.pipeline | commands.performing | commands.compress commands.finetune | commands
    | commands.run | commands.costs commands.provenance
    | training | compression | measuring | data.fingerprints | data
    | models.saving | models.replacing | models.checkpoint models.beside models.front
    | models.fitting models.tokens | models.weights | models.folder | models.modeling
    | models.surgery | models.vocabulary | models.ties models.attending | models.states
    | models.factorized
    | models.architectures models.__init__
    | decompositions | decompositions.btd | decompositions.tucker | decompositions.svd
    | decompositions.__init__ | decompositions.base decompositions._shapes
    | attention
    | recipe.stages | recipe.building | recipe.rules | recipe.sources | recipe.values
    | recipe.schema | recipe.training recipe.overparam recipe.profiling | recipe.attention
    | recipe.setting recipe.__init__
    | report.kept | report.report | report.card | report.plots | report.views
    | report.views_training report.views_complexity | report.views_attention report.views_sites
    | report.progress | report.checks | report.figures report.printable report.__init__
    | files.places files.writing files.kept files.notation
    | files.claims files.reading files.numbers files.__init__ | failure
"""

ROWS = {name: row for row, names in enumerate(ORDER.split("|")) for name in names.split()}
FREE = {"__init__", "__main__"}  # the front doors
FAMILIES = (
    r"\b(bert|roberta|distilbert|electra|gpt2|opt|llama|mistral|qwen2|qwen3|t5|bart|marian)\b"
)


def files() -> dict[str, Path]:
    """{module below tlmtool: file}"""
    paths = sorted(ROOT.rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}


def row(module: str) -> int | None:
    """The row of a module: its own, or that of the folder it is in."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((ROWS[name] for name in names if name in ROWS), None)


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
    """Imports of a file that do not point down. A folder without rows of its files is one row."""
    if module in FREE:
        return []
    return [
        f"{module} imports {other}"
        for other in sorted(ours(module, source))
        if other not in FREE and (row(other) is None or row(other) < row(module))
    ]


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
    return {found.lower() for found in re.findall(FAMILIES, words(source), re.IGNORECASE)}


@pytest.mark.parametrize("module", [m for m in files() if m not in FREE])
def test_imports_point_down(module):
    assert row(module) is not None, f"{module} has no row in the house: add it to ORDER"
    assert not upward(module, files()[module].read_text())


def test_every_row_has_a_test_that_can_fail():
    assert upward("data.tasks", "from ..models import surgery") == []
    assert upward("models.surgery", "from ..data.tasks import texts") == [
        "models.surgery imports data.tasks"
    ]
    assert upward("decompositions.svd", "def f():\n    from .btd import BTD") == [
        "decompositions.svd imports decompositions.btd"
    ]
    assert upward("failure", "import tlmtool.report.report") == ["failure imports report.report"]


@pytest.mark.parametrize("module", [m for m in files() if m.split(".")[0] == "decompositions"])
def test_the_maths_imports_torch_and_tensorly_only(module):
    source = files()[module].read_text()
    allowed = {"torch", "tensorly", *sys.stdlib_module_names}
    others = {n.split(".")[0] for n in imports(module, source)} - allowed - {"tlmtool"}
    assert not others
    assert {m.split(".")[0] for m in ours(module, source)} <= {"decompositions"}


@pytest.mark.parametrize("module", files())
def test_names_of_families_stand_in_one_file(module):
    found = named_families(files()[module].read_text())
    assert found if module == "models.architectures" else not found


def test_a_name_in_code_is_found_and_one_in_prose_is_not():
    assert named_families("x = 'bert'\n") == {"bert"}
    assert named_families("from transformers.models.gpt2 import X") == {"gpt2"}
    assert named_families('"""As bert does."""\n\n\ndef f():\n    """llama"""  # t5\n') == set()
    assert named_families("optional = adopt(bertha)\n") == set()
