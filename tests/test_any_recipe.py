"""Whatever a flag, a key of a recipe or a stage of a pipeline is given: a run, or one sentence."""

import contextlib
import io
import random

import pytest

from tlmtool.cli import run
from tlmtool.files.notation import written
from tlmtool.recipe.schema import settings
from tlmtool.recipe.verbs import VERBS

ODD = [
    "",
    " ",
    "0",
    "-0",
    "010",
    "1_0",
    "1e3",
    "0x10",
    ".nan",
    "-.inf",
    "1" * 5000,
    "٣",
    "null",
    "~",
]
ODD += [
    "yes",
    "true",
    "[]",
    "{}",
    ",",
    "a,,b",
    "*",
    "[a",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "a\nb",
    "🦊",
]
ODD += [
    "@",
    "a" * 9999,
    "%s",
    "{0}",
    "[red]",
    "--",
    "~nobody/x",
    "loss>1",
    "loss>1e999",
    "a-b",
    "/",
]
TREES = [None, True, 10**400, 1e308, [], {}, [None], {"a": {}}, [[[]]], {"": ""}, {"x": 2**64}, "a"]


def ends_well(*args):
    """A run that ends with one of our codes, a failure in one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*args])
    told = err.getvalue().replace("noise of a library\n", "").replace("half way\n", "")
    assert code in (0, 2, 3, 4), (args, told)
    assert "Traceback" not in told and "internal error" not in told, (args, told)
    assert told.count("\n") == (code != 0), (args, told)
    assert len(told) < 1500 and told.isprintable() == (not code), (args, told)


@pytest.mark.parametrize("verb", VERBS)
def test_any_flag(commands, verb):
    draw = random.Random(verb)
    known = [each for each in settings(verb).values() if each.flag]
    for setting in known:
        value = draw.choice(ODD)
        if setting.kind is not bool and draw.random() < 0.5:
            ends_well(verb, "m", f"--{setting.flag}", value)
        else:
            ends_well(verb, "m", "--set", f"{setting.path}={value}")


def test_any_argument(commands):
    verb = "merge"
    for value in ODD:
        ends_well(verb, value)
        ends_well(verb, "m", "--set", value)
        ends_well(verb, "m", "--recipe", value)
        ends_well(value, "m")


@pytest.mark.parametrize("verb", VERBS)
def test_any_key(commands, tmp_path, verb):
    draw, file = random.Random(verb), tmp_path / "r.yaml"
    odd = [*TREES, *(value for value in ODD if "\ud800" not in value)]
    for path in [*settings(verb), "config.x", "config", "compression", "verb", "unknown", "a.b.c"]:
        section, _, leaf = path.rpartition(".")
        for value in draw.sample(odd, 1):
            tree = {leaf: value} if not section else {section: {leaf: value}}
            file.write_text(written({"model": "m"} | tree), encoding="utf-8")
            ends_well(verb, "--recipe", str(file))
    for value in odd if verb == "finetune" else []:
        file.write_text(written(value), encoding="utf-8")
        ends_well(verb, "m", "--recipe", str(file))
        file.write_text(written({"config": {"x": value}}), encoding="utf-8")
        ends_well("finetune", "--from-config", "bert", "--task", "mlm", "--recipe", str(file))


def test_any_pipeline(tmp_path):
    file = tmp_path / "p.yaml"
    odd = [*TREES, *(value for value in ODD if "\ud800" not in value)]
    for value in odd[::2]:
        for stages in (value, [value], [{"name": value}], [{"name": "a", "verb": value}]):
            file.write_text(written({"stages": stages}), encoding="utf-8")
            ends_well("run", str(file), "--out", str(tmp_path / "o"))
        file.write_text(written({"stages": [{"name": "a", "verb": "merge", "model": "./no"}]}))
        if isinstance(value, str):
            ends_well("run", str(file), "--out", str(tmp_path / "o"), "--set", value)
            ends_well("run", str(file), "--out", str(tmp_path / "o"), "--set", f"a.{value}")
    assert not (tmp_path / "o").exists()
