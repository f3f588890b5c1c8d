"""The JSON schema that editors check recipes by: it takes what `tlm` takes, and no other key."""

import json
from pathlib import Path

import pytest
from test_docs import PAGES, blocks

from tlmtool.cli import run
from tlmtool.files.notation import parse
from tlmtool.recipe.building import build, to_dict
from tlmtool.recipe.editors import json_schema
from tlmtool.recipe.schema import Recipe, settings, settings_of
from tlmtool.recipe.values import convert
from tlmtool.recipe.verbs import VERBS

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
TEXTS = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in RECIPES}
TEXTS |= {f"{p.name} {i}": b for p in PAGES for i, b in enumerate(blocks(p, "yaml"))}
STAGE = {"name": "small", "verb": "compress", "model": "m", "compression": {"keep": 0.5}}


@pytest.fixture(scope="module")
def check():
    """Whether a tree is a recipe by the schema."""
    schema = json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema).is_valid


@pytest.mark.parametrize("name", TEXTS)
def test_every_recipe_that_is_shown_is_valid(name, check):
    tree = parse(TEXTS[name], name)
    assert check(tree) or not {"verb", "stages"} & {*tree}


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("recipes/")])
def test_a_key_that_is_wrong_is_found_wherever_it_stands(name, check):
    """At the top of each recipe, and in each of its stages and sections."""
    tree = parse(TEXTS[name], name)
    places = [tree, *tree.get("stages", [])]
    places += [x for place in places for x in place.values() if isinstance(x, dict)]
    for place in places:
        if place not in (each.get("config") for each in places):
            place["keeep"] = 0.5
            assert not check(tree)
            del place["keeep"]
    assert check(tree)


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("compress", {"model": "m", "keep": "0.9,0.5", "sites": "all", "recover": "3"}),
        ("compress", {"model": "m", "attention": "dimensionwise", "layers": "0-2"}),
        ("quantize", {"model": "m", "bits": "4"}),
        ("finetune", {"model": "m", "task": "cola", "seeds": "2", "lr_grid": "1e-4,2e-4"}),
        ("profile", {"attention": "softmax,dimensionwise", "plot": "a.PNG"}),
        ("evaluate", {"model": "m", "task": "lm-eval:arc_easy"}),
        ("export", {"model": "m", "to": "onnx"}),
    ],
)
def test_what_a_run_writes_as_its_recipe_is_valid(verb, flags, check):
    """With every default spelled out."""
    assert check(to_dict(build(verb, flags)))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_keys_that_it_reads(verb):
    held = json_schema()["definitions"][verb]["properties"]
    paths = set()
    for name, each in held.items():
        inner = each.get("properties", {})
        paths |= {f"{name}.{leaf}" for leaf in inner} or {name}
    paths -= set() if "output.out" in settings(verb) else {"output.out"}
    assert {*settings(verb)} == paths - {"verb", "config", "matrix", "exclude", "cluster", "launch"}


def test_a_value_is_valid_where_tlm_takes_it():
    """Each setting, with values of every type."""
    definitions = json_schema()["definitions"]
    values = [None, True, -1, 0, 0.5, 1, 2.5, 8, 300, "", "x", "svd", "a,b", "5GB", [], [1], ["x"]]
    for setting in settings_of(Recipe):
        if setting.path in ("compression.overrides", "profiling.plot"):
            continue
        valid = jsonschema.Draft7Validator(definitions[setting.path]).is_valid
        for value in values:
            try:
                convert(setting.kind, setting.rules, setting.path, value)
                taken = True
            except Exception:
                taken = False
            text = isinstance(value, str) and setting.kind is not str
            if taken and (text or (setting.kind is bool and value is not True)):
                continue  # as flags have it: text for a number or a list, 1 for true
            assert valid(value) is taken, (setting.path, value)


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"matrix": {"small.compression.keep": [0.9, 0.5], "small.seed": [1, 2]}}, True),
        ({"matrix": {"small.seed": [1]}, "exclude": [{"small.seed": 1}]}, True),
        ({"matrix": {"small.compression.keeep": [0.9]}}, False),
        ({"matrix": {"small.compression.keep": [1.5]}}, False),
        ({"matrix": {"small.compression.keep": []}}, False),
        ({"matrix": {"compression.keep": [0.5]}}, False),
        ({"exclude": [{}]}, False),
        ({"stages": []}, False),
        ({"stages": [STAGE | {"name": "two words"}]}, False),
        ({"stages": [STAGE | {"verb": "train"}]}, False),
        ({"stages": [{k: v for k, v in STAGE.items() if k != "name"}]}, False),
        ({"stages": [STAGE | {"output": {"out": "x"}}]}, False),
        ({"stages": [STAGE | {"output": {"fail_if": "loss>3"}}]}, True),
        ({"stages": [STAGE | {"matrix": {"compression.keep": [0.5]}}]}, True),
        ({"stages": [{"name": "t", "verb": "finetune", "launch": "torchrun --x 2"}]}, True),
        ({"stages": [{"name": "t", "verb": "finetune", "launch": "python x"}]}, False),
        ({"stages": [STAGE | {"launch": "torchrun --x 2"}]}, False),
        ({"cluster": {"timeout_min": 9}}, True),
        ({"stages": [STAGE | {"cluster": {"timeout_min": 9}}]}, False),
        ({"stages": [STAGE | {"matrix": {"small.compression.keep": [0.5]}}]}, False),
    ],
)
def test_a_file_of_stages(change, good, check):
    assert check({"stages": [STAGE]} | change) is good


@pytest.mark.parametrize(
    "more", [{"launch": "torchrun --x 2"}, {"cluster": {}}, {"exclude": [{"seed": 1}]}]
)
def test_what_is_for_points_needs_a_matrix(more, check, tmp_path):
    """A command alone is started and placed by whoever runs it."""
    training = {"task": "mlm", "data": "d.txt", "steps": 2}
    tree = {"verb": "finetune", "model": "m", "training": training, **more}
    file = tmp_path / "recipe.yaml"
    for matrix in ({}, {"matrix": {"seed": [1, 2]}}):
        file.write_text(json.dumps(tree | matrix), encoding="utf-8")
        assert check(tree | matrix) is bool(matrix)
        assert run(["run", str(file), "--check"]) == (0 if matrix else 2)


def test_the_command_prints_it(capsys):
    assert run(["run", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(json_schema()))
