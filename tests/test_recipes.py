"""Every file in recipes/: its first line runs it, it is valid, and the everyday ones run."""

import re
from pathlib import Path

import pytest
from built import recipes_of
from conftest import pico, word_tokenizer
from test_blocks import EXTRAS
from test_docs import blocks, check

from tlmtool.cli import run
from tlmtool.files.notation import parse
from tlmtool.recipe.sources import read

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
EACH = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
EVERYDAY = ("quickstart", "encoder-for-cpu", "language-model", "classifier", "choose-keep")
EVERYDAY = (*EVERYDAY, "pipeline-in-ci")
OTHERS = [file for file in FILES if file.parent.name == "recipes" and file.stem not in EVERYDAY]


@EACH
def test_the_first_line_is_its_command_and_the_second_says_what_it_does(file):
    first, second, *rest = file.read_text("utf-8").splitlines()
    place = file.relative_to(ROOT).as_posix()
    words = first.removeprefix("# tlm ").split()
    assert first.startswith("# tlm ") and place in words
    check(words)
    told = [second, *(line for line in rest[:4] if line.startswith("# "))]
    assert second.startswith("# ") and " ".join(told).endswith((".", ".)"))
    assert len(second) <= 160


@pytest.mark.parametrize("file", OTHERS, ids=lambda f: f.stem)
def test_others_are_named_by_their_verb_and_model(file):
    """<verb>-<model>-<what>.yaml."""
    verb, model, _ = file.stem.split("-")
    found = recipes_of(file)
    assert (found[0].model or found[0].fresh.from_config).replace("-", "_") == model
    if verb != "run":
        assert found[0].verb == verb and found[0].output.out


@EACH
def test_it_is_valid_without_data_and_models(file, capsys):
    """Every setting of every point and stage."""
    assert run(["run", str(file), "--check"]) == 0
    assert "is valid" in capsys.readouterr().out


def test_the_everyday_recipes_come_first_in_their_page():
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    listed = re.findall(r"^\| `([\w/-]+)\.yaml`", page, re.M)
    assert [*EVERYDAY] == listed[: len(EVERYDAY)]


def test_the_quickstart_reads_nothing_that_a_clone_does_not_have():
    for stage in read(ROOT / "recipes" / "quickstart.yaml")["stages"]:
        for section in stage.values():
            data = section.get("data") if isinstance(section, dict) else None
            assert data is None or (ROOT / data).is_file()
        assert stage.get("model", "minilm") in ("minilm",)


@pytest.fixture
def workflow() -> list[str]:
    """The commands of the workflow that the docs show."""
    page = ROOT / "docs" / "recipes.md"
    (tree,) = (parse(each, "it") for each in blocks(page, "yaml") if "jobs:" in each)
    assert tree["on"] == "pull_request" and tree["permissions"] == {"contents": "read"}
    (job,) = tree["jobs"].values()
    assert all({"uses", "run"} & {*step} for step in job["steps"])
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_fails_when_quality_falls(workflow, tmp_path, monkeypatch):
    """Its own command, on a small model: exit code 0 within the bound, and 3 beyond it."""
    install, command = workflow
    extras = re.fullmatch(r"pip install -c constraints.txt '\.\[(.*)\]'", install)[1].split(",")
    assert {*extras} <= {*EXTRAS}
    pico("bert").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    words = command.removeprefix("tlm ").split()
    words[1] = str(ROOT / words[1])
    monkeypatch.chdir(tmp_path)
    own = [f"{name}={tmp_path / 'model'}" for name in ("small.model", "cost.profiling.against")]
    for each in (*own, "cost.profiling.seq_len=8"):
        words += ["--set", each]
    test = read(words[1])["stages"][0]["output"]["fail_if"].partition(">")[0]
    assert test == "feature_error"
    assert run([*words, "-q", "--set", f"small.output.fail_if={test}>1000"]) == 0
    assert run([*words, "-q", "--overwrite", "--set", f"small.output.fail_if={test}>0"]) == 3
