"""README, docs and the other pages hold true: commands, code, links, names, generated parts."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from built import recipes_of
from conftest import pico, word_tokenizer
from typer.main import get_command

import tlmtool
from tlmtool.cli.app import application
from tlmtool.models import architectures
from tlmtool.models.architectures import ARCHITECTURES
from tlmtool.recipe.building import build
from tlmtool.recipe.folders import GIVEN
from tlmtool.recipe.schema import Recipe, settings, settings_of
from tlmtool.recipe.verbs import BESIDE, VERBS
from tlmtool.report.checks import comparison

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
CHANGES = ROOT / "CHANGELOG.md"  # tells of flags and values that are gone
COMMANDS = [*VERBS, *BESIDE]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
KINDS = {"sh", "python", "yaml", "json", "text"}

EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return [text for name, text in FENCE.findall(page.read_text("utf-8")) if name == kind]


def commands(page: Path) -> list[list[str]]:
    """Every command of tlm in a page, its comment dropped, as words: in shell blocks, in code."""
    text = page.read_text("utf-8")
    inline = re.findall(r"`((?:tlm|python -m tlmtool) [^`]*?)`", FENCE.sub("", text))
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines() + inline
    found = (
        re.search(r"(?:^|[/ ])(?:tlm|tlmtool) (.*)", line.replace("\n", " ")) for line in lines
    )
    words = [shlex.split(match[1], comments=True) for match in found if match]
    alone = ("doctor",)  # a command that takes no argument
    return [w for w in words if w and w[0] in COMMANDS and (len(w) > 1 or w[0] in alone)]


def check(words: list[str]) -> None:
    """Reads a command as `tlm` does: its flags, then the recipe that they make."""
    verb, *rest = words
    if "--schema" in rest:  # it is printed as soon as it is read
        return
    parser = get_command(application([verb])).commands[verb]
    given = parser.make_context(verb, [*rest]).params
    if verb == "run":
        assert recipes_of(ROOT / given["file"], given["sets"] or ())
    elif verb == "compare":
        for test in given["where"] or ():
            assert comparison(test)
    elif verb in VERBS:
        sets, file = given.pop("sets") or (), given.pop("recipe")
        sets = [each for each in sets if not GIVEN.fullmatch(each)]  # folders that are not here
        own = {s.flag.replace("-", "_") for s in settings(verb).values() if s.flag} | {"model"}
        flags = {name: each for name, each in given.items() if name in own and each is not False}
        build(verb, flags, sets, file and ROOT / file)


def shown(words: list[str]) -> bool:
    """A command to be typed, not one with a part left out, such as `tlm evaluate --baseline`."""
    bare = {s.flag for verb in VERBS for s in settings(verb).values() if s.kind is bool}
    bare |= {"json", "public", "private", "schema"}
    if words[-1].startswith("--") and words[-1][2:] not in bare:
        return False
    upper = (word for word in words if re.fullmatch(r"[A-Z]{2,}|\.\.\.|.*\|.*", word))
    return not any(upper)


@EVERY
def test_commands_are_valid(page):
    for words in filter(shown, commands(page) if page != CHANGES else []):
        check(words)


def test_every_command_is_shown_on_its_page():
    for verb in COMMANDS:
        assert any(words[0] == verb for words in commands(ROOT / "docs" / f"{verb}.md"))
        assert f"(docs/{verb}.md)" in README.read_text("utf-8")


def test_a_command_that_is_wrong_is_found():
    with pytest.raises(tlmtool.Failure):
        check(["compress", "minilm", "--rank", "none"])
    with pytest.raises(tlmtool.Failure):
        check(["evaluate", "minilm", "--task", "poetry"])
    assert not shown(["compress", "MODEL", "--keep", "0.5"])


@EVERY
def test_every_block_has_a_kind(page):
    text = page.read_text("utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text))
    assert {kind for kind, _ in FENCE.findall(text)} <= KINDS


@EVERY
def test_yaml_is_a_recipe(page, tmp_path):
    for i, block in enumerate(blocks(page, "yaml")):
        (file := tmp_path / f"{i}.yaml").write_text(block)
        if "\njobs:" not in block:  # a workflow of GitHub: see test_recipes.py
            assert recipes_of(file)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder where `minilm` and what the commands of the docs write are pico models."""
    folder = tmp_path_factory.mktemp("docs")
    model = pico("bert")
    for name in ("minilm", "out/m8", "out/minilm-rank8"):
        if name != "minilm":
            tlmtool.compress(model, rank=2)
        model.save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
        model = pico("bert")
    return folder


SHOWN = [p for p in PAGES if blocks(p, "python") and p.name != "serving.md"]  # see test_serving.py


@pytest.mark.parametrize("page", SHOWN, ids=lambda p: p.name)
def test_python_runs(page, checkpoints, monkeypatch):
    """Block after block, as a reader would, in a registry that stays as it was."""
    monkeypatch.chdir(checkpoints)
    monkeypatch.setattr(architectures, "ARCHITECTURES", dict(ARCHITECTURES))
    names = {"__name__": "page"}
    for block in blocks(page, "python"):
        source = block.replace('"minilm"', '"./minilm"')
        exec(compile(source, str(page), "exec"), names)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@EVERY
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(
        r'(?:src|srcset)="([^"]+)"', text
    ):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(file), f"{page.name}: no heading for {target}"


@EVERY
def test_files_that_are_named_are_there(page):
    if page == CHANGES:
        return
    paths = r"\b((?:tests|tlmtool|docs|benchmarks|recipes)/[\w./*-]*\w)"
    for path in re.findall(paths, page.read_text("utf-8")):
        assert list(ROOT.glob(path)), f"{page.name} names {path}, which does not exist"


def test_every_page_is_in_the_index():
    index = "".join(
        (ROOT / "docs" / name).read_text("utf-8") for name in ("README.md", "results.md")
    )
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "README.md" or f"{page.name})" in index


def test_generated_parts_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert {f"{verb}.md" for verb in COMMANDS} <= {page.name for page in generate.pages()}
    for page in generate.pages():
        text = page.read_text("utf-8")
        assert generate.generated(text) == text, "run `python docs/generate.py`"
        assert generate.generated(generate.BLOCK.sub(r"\1\3", text)) == text


@EVERY
def test_flags_are_those_there_are(page):
    known = {s.flag for s in settings_of(Recipe)} | {"json", "recipe", "set", "help", "version"}
    known |= {"sort", "where", "format", "plots", "private", "public"}  # of compare and push
    known |= {"install-completion", "show-completion"}
    known |= {"jobs", "cluster", "yes", "schema"}  # of run, too
    foreign = {"use_fsdp", "check", "threads", "only", "warm", "steps", "width", "rates", "arms"}
    foreign |= {"read", "variants", "quick"}  # of accelerate, generate.py and the benchmarks
    foreign |= {"attention-feature", "tensor-parallel-size", "model-impl"}  # docs/adding.md, vLLM
    found = set(re.findall(r"`--([a-z_-]+)", page.read_text("utf-8")))
    assert page == CHANGES or found <= known | foreign


def test_recipes_are_all_listed():
    listed = set(re.findall(r"`([\w-]+\.yaml)`", (ROOT / "docs" / "recipes.md").read_text("utf-8")))
    assert listed - {"recipe.yaml"} == {file.name for file in (ROOT / "recipes").glob("*.yaml")}


def test_results_of_the_readme_are_those_of_the_studies():
    """Each row's parameters and score stand together in a row of the pages that measured them."""
    studies = [ROOT / "docs" / name for name in ("choosing.md", "results/recovery.md")]
    rows = [row for page in studies for row in page.read_text("utf-8").splitlines()]
    found = re.findall(r"\| ([\d,]{10,}) \| (0\.\d{4}) \|$", README.read_text("utf-8"), re.M)
    assert len(found) > 5
    for parameters, score in found:
        assert any(parameters in row and score in row for row in rows), (parameters, score)


def test_ci_runs_the_test_command_of_the_readme():
    found = re.search(r"grep -m 1 -- '(.*?)' README\.md", (ROOT / ".ci" / "run").read_text())
    line = next(line for line in README.read_text("utf-8").splitlines() if found[1] in line)
    assert re.search(r"pip install .*-e '\.\[dev\]'", line) and "-m pytest" in line
    assert (ROOT / "constraints.txt").exists() and "constraints.txt" in line
