"""The recipes of the paper's tables and figures: all are named, valid, and predict their cost."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import WORDS, pico, word_tokenizer

from tlmtool.cli import run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "paper.md").read_text("utf-8")
RECIPES = sorted((ROOT / "recipes" / "paper").glob("*.yaml"))
ITEMS = [*(f"Figure {n}" for n in range(1, 7)), "Table 1"]  # all that the paper has
UNKNOWN = {"tlm profile predicts no cost", "tlm evaluate predicts no cost"}
EVERY = pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)


def test_the_page_has_a_row_for_each_table_and_figure():
    rows = dict(re.findall(r"^\| ((?:Figure|Table) \d) \|(.*)$", PAGE, re.M))
    assert sorted(rows) == sorted(ITEMS)
    for row in rows.values():
        recipe, measured = row.split("|")[1:3]
        assert (ROOT / recipe.strip(" `")).is_file()
        assert "](" in measured or "needs a GPU" in measured


def test_every_recipe_of_the_paper_is_on_the_page():
    assert set(re.findall(r"recipes/paper/([\w-]+\.yaml)", PAGE)) == {f.name for f in RECIPES}


@EVERY
def test_a_recipe_opens_with_its_command_and_is_valid(file, capsys, monkeypatch):
    monkeypatch.delenv("TLM_DATA", raising=False)
    needs = " --data ../data" if "${" in file.read_text("utf-8") else ""
    first = file.read_text("utf-8").splitlines()[0]
    assert first == f"# tlm run recipes/paper/{file.name}{needs}"
    assert run(["run", str(file), "--check"]) == 0  # no data, and no model
    assert "is valid" in capsys.readouterr().out
    if needs:
        assert run(["run", str(file), "-q"]) != 0
        assert "docs/data.md" in capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A pico model, and folders of data in the layouts of the paper's sets."""
    place, draw = tmp_path_factory.mktemp("paper"), torch.Generator().manual_seed(0)
    pico("bert").save_pretrained(place / "model")
    word_tokenizer().save_pretrained(place / "model")

    def text() -> str:
        return " ".join(WORDS[i] for i in torch.randperm(len(WORDS), generator=draw).tolist())

    heads = {"rte": "index\tsentence1\tsentence2\tlabel", "cola": ""}
    heads |= {"stsb": "sentence1\tsentence2\tscore"}
    heads |= {"mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"}
    made = {
        "cola": lambda i: f"x\t{i % 2}\t\t{text()}",
        "rte": lambda i: f"{i}\t{text()}\t{text()}\t{('not_' * (i % 2))}entailment",
        "stsb": lambda i: f"{text()}\t{text()}\t{i % 5}.0",
        "mrpc": lambda i: f"{i % 2}\t1\t2\t{text()}\t{text()}",
    }
    for name, row in made.items():
        (place / "data" / name).mkdir(parents=True)
        for split in ("train", "dev"):
            rows = [heads[name], *map(row, range(40))]
            (place / "data" / name / f"{split}.tsv").write_text("\n".join(filter(None, rows)))
    for name, files in {
        "ptb": ("train.txt", "valid.txt"),
        "wikitext-2": ("train.txt", "valid.txt"),
        "multi30k": ("train.en", "train.de", "val.en", "val.de"),
    }.items():
        (place / "data" / name).mkdir()
        for each in files:
            lines = "\n".join(text() for _ in range(60))
            (place / "data" / name / each).write_text(f"{lines}\n")
    return place


def last_point(file: Path, out: Path) -> Path:
    """The recipe with the last value of each key of its matrices, and pico models."""
    tree = yaml.safe_load(file.read_text("utf-8"))
    for body in tree.get("stages", [tree]):
        if "matrix" in body:
            body["matrix"] = {key: each[-1:] for key, each in body["matrix"].items()}
        body.pop("exclude", None)
        if body.get("model") in ("bert-base", "minilm"):
            body["model"] = "model"
            body.get("attention", {}).pop("layers", None)
    out.write_text(yaml.safe_dump(tree))
    return out


@EVERY
def test_a_recipe_predicts_what_it_costs(file, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place)
    words = ["run", str(last_point(file, tmp_path / "recipe.yaml")), "--dry-run", "--json", "-q"]
    assert run([*words, "--data", "data"]) == 0
    costs = json.loads(capsys.readouterr().out)["costs"]
    why = [each["unknown"] for each in costs if each.get("unknown")]
    assert len(why) < len(costs) or file.stem == "figure-4"
    assert {each for each in why if not each.startswith("it reads ")} <= UNKNOWN
    assert sorted(each.name for each in place.iterdir()) == ["data", "model"]
