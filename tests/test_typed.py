"""What people type works or names the right thing; shells complete; commands that come next."""

import json
import shlex
from dataclasses import fields

import pytest
from conftest import ending
from folders import compressed, masked_bert

from tlmtool.cli import run
from tlmtool.cli.following import following
from tlmtool.cli.typed import COMMANDS, FLAGS, LISTS, meant
from tlmtool.recipe.compression import methods
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.setting import settings_of
from tlmtool.recipe.verbs import BESIDE, CHECKPOINTS, VERBS
from tlmtool.report.parts.ending import Predicted
from tlmtool.report.parts.front import Front, Point
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.study import Study
from tlmtool.report.report import Report
from tlmtool.tasks.table import TASKS


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["help"], ["--help"]),
        (["help", "merge"], ["merge", "--help"]),
        (["version"], ["--version"]),
        (["-V"], ["--version"]),
    ],
)
def test_words_that_work(words, same, capsys):
    assert run(words) == 0
    first = capsys.readouterr().out
    assert run(same) == 0
    assert capsys.readouterr().out == first != ""


@pytest.mark.parametrize("given", [["--model", "m"], ["--model=m"]])
def test_the_model_may_be_named_by_a_flag(given, commands, capsys):
    assert run(["merge", *given, "--dtype", "float32"]) == 0
    (recipe,) = commands.recipes
    assert (recipe.model, recipe.dtype) == ("m", "float32")
    assert meant(["nothing", *given]) == ["nothing", *given]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("eval m", "use tlm evaluate"),
        ("list", "minilm, smollm2 and gemma3-270m"),
        ("compres m", "did you mean 'compress'"),
        ("compress m --ratio 0.5", "use --keep (the share that stays"),
        ("compress m --quantize 8", "use --bits (8 or 4)"),
        ("compress m --qunatize=8", "has no option --qunatize"),
        ("evaluate m --ratio 1", "see tlm evaluate --help"),
        ("evaluate m --task poetry", ", ".join(TASKS)),
        ("merge m --fail-if speed>1", "parameters.{before,after}"),
        ("merge m --fail-if flops.aftr>1", "did you mean flops.after?; it has"),
        ("run {recipe}", "recipe of one command runs with tlm VERB --recipe"),
    ],
)
def test_words_that_name_the_right_thing(words, says, commands, tmp_path, capsys):
    file = tmp_path / "r.yaml"
    file.write_text("model: m\n")
    assert run(words.format(recipe=file).split()) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not commands.recipes


def test_what_is_named_is_there():
    known = {f"--{each.flag}" for each in settings_of(Recipe)} | {"--recipe", "--verbose"}
    assert {flag for flag, _ in FLAGS.values()} <= known
    for words in {*COMMANDS.values()} - {LISTS}:
        assert words.split()[1].strip(",") in {**VERBS, **BESIDE}
    assert not {*COMMANDS} & {*VERBS, *BESIDE}


def test_run_takes_a_recipe_of_one_verb(commands, tmp_path, capsys):
    file = tmp_path / "one.yaml"
    file.write_text("verb: merge\nmodel: m\n")
    assert run(["run", str(file), "--out", "x", "--set", "seed=3", "--overwrite"]) == 0
    (recipe,) = commands.recipes
    assert (recipe.verb, recipe.model, recipe.seed) == ("merge", "m", 3)
    assert (recipe.output.out, recipe.output.overwrite) == ("x", True)
    assert run(["run", str(file), "--resume"]) == 2
    assert "--resume is not for merge, the one command of" in capsys.readouterr().err


def completed(monkeypatch, capsys, line: str) -> list[str]:
    """What bash would offer at the end of a line."""
    monkeypatch.setenv("_TLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(shlex.split(line + "x")) - 1))
    assert run([]) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tlm ", [*VERBS, *BESIDE]),
        ("tlm mer", ["merge"]),
        ("tlm compress minilm --method ", methods()),
        ("tlm compress min", ["minilm"]),
        ("tlm compress minilm --sites attention,f", ["attention,ffn"]),
        ("tlm evaluate minilm --task ", [*TASKS]),
        ("tlm evaluate minilm --baseline smol", ["smollm2"]),
        ("tlm info gem", ["gemma3-270m"]),
        ("tlm merge out/m --ov", ["--overwrite"]),
    ],
)
def test_shells_complete(line, offered, monkeypatch, capsys):
    assert completed(monkeypatch, capsys, line) == offered


def made(verb, kind, *parts, **model) -> list[list[str]]:
    model = {"id": "my model", "out": "out/a b", **model}
    return [*following(Report(verb, [Model(class_=kind, **model), *parts, ending()]))]


@pytest.mark.parametrize(
    "kind", ["TlmLlamaForCausalLM", "TlmBertModel", "T5ForConditionalGeneration"]
)
@pytest.mark.parametrize("verb", CHECKPOINTS)
def test_the_next_commands_are_valid(verb, kind, capsys):
    found = made(verb, kind)
    assert len(found) > 2
    for words in found:
        assert words[0] == "tlm" and "out/a b" in words
        flags = {word[2:] for word in words if word.startswith("--")}
        known = {each.flag for each in settings(words[1]).values()} if words[1] in VERBS else {*()}
        assert flags <= known, words


def test_after_several_results_a_checkpoint_of_them_is_named():
    points = (Point(budget="dense"), Point(budget="keep 0.9", out="out/f/keep-0.9"))
    points += (Point(budget="keep 0.5", out="out/f/keep-0.5"),)
    found = made("compress", "BertModel", Front(points=points), out="out/f")
    assert found[0] == ["tlm", "compare", "out/f"]
    assert all("out/f/keep-0.9" in words and "out/f" not in words for words in found[1:])
    taken = Front(points=(Point(budget="keep 0.9", out="out/f", taken=True),))
    assert made("compress", "BertModel", taken, out="out/f")[0][:3] == ["tlm", "evaluate", "out/f"]
    study = Study(**dict.fromkeys((each.name for each in fields(Study)), ()))
    assert made("finetune", "", study, out="out/s") == [["tlm", "compare", "out/s"]]


def test_there_is_nothing_next_after_a_dry_run_or_a_score():
    assert made("compress", "BertModel")
    assert not made("compress", "BertModel", Predicted(predicted=True))
    assert not made("evaluate", "BertModel") and not made("repair", "BertModel")
    assert not made("merge", "BertModel", out=None)


def test_the_last_lines_are_quoted_and_not_in_json(tmp_path, capsys):
    folder = masked_bert(tmp_path / "my bert")
    words = ["compress", str(folder), "--rank", "2", "--calibration", "none", "--overwrite"]
    words += ["--out", str(tmp_path / "out b")]
    assert run(words) == 0
    out, err = capsys.readouterr()
    last = [line[12:].strip() for line in err.splitlines()[-3:]]
    assert all(shlex.split(line)[0] == "tlm" for line in last)
    assert any(str(tmp_path / "out b") in shlex.split(line) for line in last)
    assert "tlm evaluate" not in out
    for quiet in ("--json", "-q"):
        assert run([*words, quiet]) == 0
        out, err = capsys.readouterr()
        assert "tlm evaluate" not in err
        assert quiet == "-q" or json.loads(out)


def test_compressed_folders_have_a_next_command_that_runs(tmp_path, capsys):
    small = compressed(masked_bert(tmp_path / "bert"))
    assert run(["info", str(small)]) == 0 and "svd" in capsys.readouterr().out
