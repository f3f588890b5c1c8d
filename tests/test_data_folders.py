"""`${NAME}` in a recipe: what fills it, what stays, and the sentence about a missing folder."""

import pytest

import tlmtool
from tlmtool.cli import run
from tlmtool.failure import NotLoadable, Usage
from tlmtool.recipe.building import build
from tlmtool.recipe.folders import LAYOUTS, PARENT, check_filled, mentioned
from tlmtool.recipe.stages import stages_of

ONE = "verb: finetune\nmodel: m\ntraining: {task: cola, data: '${COLA}'}\n"
TWO = """
stages:
  - {name: fit, verb: compress, model: m, compression: {rank: 2}, calibration: {text: "${PTB}/t"}}
  - {name: tune, verb: finetune, training: {task: cola, data: "${COLA}"}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a recipe of one verb, one of stages, and folders of data."""
    monkeypatch.delenv(PARENT, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text(ONE)
    (tmp_path / "two.yaml").write_text(TWO)
    for name in ("CoLA", "ptb", "Wiki-Text_2"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path


def filled(*given, **more):
    return build("finetune", recipe_file="one.yaml", folders=given, **more).training.data


def test_every_way_to_give_a_folder_gives_it(place, monkeypatch):
    assert filled() == "${COLA}"
    assert filled("COLA=data/CoLA") == "data/CoLA"
    assert filled(sets=["COLA=data/CoLA"]) == "data/CoLA"
    assert filled(flags={"data": "COLA=data/CoLA"}) == "data/CoLA"
    assert filled(str(place / "data")) == str(place / "data" / "CoLA")
    assert filled("data", "COLA=data/ptb") == "data/ptb"
    assert filled(flags={"data": "data/ptb"}) == "data/ptb"  # the data of the verb itself
    monkeypatch.setenv(PARENT, "data")
    assert filled() == "data/CoLA"


def test_stages_take_their_folders_from_the_same_flags(place):
    first, second = stages_of("two.yaml", place / "out", ["PTB=data/ptb", "tune.seed=3"], ["data"])
    assert first.recipe.calibration.text == "data/ptb/t"
    assert (second.recipe.training.data, second.recipe.seed) == ("data/CoLA", 3)


def test_what_is_given_must_be_there_and_be_asked_for(place):
    with pytest.raises(NotLoadable, match=r"COLA=nowhere .*train\.tsv.*does not exist.*data\.md"):
        filled("COLA=nowhere")
    with pytest.raises(NotLoadable, match="--data nowhere does not exist"):
        filled("nowhere")
    with pytest.raises(Usage, match=r"has no \$\{RTE\}.*it has \$\{COLA\}"):
        filled("RTE=data")
    with pytest.raises(Usage, match="unknown key SEED"):
        filled(sets=["SEED=1"])
    with pytest.raises(Usage, match="two folders"):
        filled("data", "data/ptb")
    (place / "data" / "cola_").mkdir()
    with pytest.raises(Usage, match="CoLA and cola_"):
        filled("data")


@pytest.mark.parametrize("file", ["one.yaml", "two.yaml"])
def test_a_folder_that_nobody_gave_is_one_sentence_before_any_work(place, file, capsys):
    given = ["--data", "PTB=data/ptb"] if file == "two.yaml" else []
    assert run(["run", file, "-q", *given]) == 4
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "docs/data.md" in said
    assert f"recipe {file} needs the folder ${{COLA}} (with {LAYOUTS['COLA'].files})" in said
    assert "--data COLA=DIR" in said and not (place / "out").exists()


def test_only_what_is_read_is_filled(place):
    asked = {"model": "m", "prompt": "say ${COLA}"}
    assert build("generate", asked, folders=()).generation.prompt == "say ${COLA}"
    check_filled(build("generate", asked))
    with pytest.raises(NotLoadable, match=r"generate needs the folder \$\{X\}.*--set X=DIR"):
        tlmtool.run("generate", "${X}", prompt="a")


def test_names_are_found_at_any_depth_and_once_for_an_alias():
    shared = ["${A}/x", {"k": "${B}"}]
    for _ in range(40):
        shared = [shared, shared]  # 2^40 leaves
    assert mentioned({"a": shared, 3: ("${C}", 1, None)}) == {"A", "B", "C"}
