"""The command line: help without heavy imports, exit codes, one-sentence errors, clean JSON."""

import errno
import json
import logging
import os
import re
import subprocess
import sys

import pytest
from test_prose import LONGEST, ODD, sentences, words

from tlmtool.cli import run
from tlmtool.failure import CheckFailed, MissingDependency, NotLoadable
from tlmtool.recipe.schema import settings
from tlmtool.recipe.verbs import BESIDE, VERBS
from tlmtool.report.report import Report

HEAVY = ("torch", "transformers", "pydantic", "yaml", "tensorly", "numpy", "matplotlib")


@pytest.mark.parametrize(
    "args", [["--help"], ["compress", "--help"], ["profile", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(args):
    code = (
        f"import sys; from tlmtool.cli import run; code = run({args!r})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] 0"
    assert "tlm" in done.stdout and "\x1b" not in done.stdout


def shown(capsys, *args) -> str:
    """What is printed, without frames and line ends."""
    assert run([*args]) == 0
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("width", ["80", "100"])
@pytest.mark.parametrize("verb", VERBS)
def test_help_hides_nothing(verb, width, capsys, monkeypatch):
    """Every flag, its default and its key; what only a recipe file can say; an example."""
    monkeypatch.setenv("COLUMNS", width)
    said = shown(capsys, verb, "--help")
    assert f"Example: {VERBS[verb].example}" in said and "docs/recipes.md" in said
    for path, setting in settings(verb).items():
        if path != "model":
            assert f"--{setting.flag} " in said if setting.flag else path in said
        assert " ".join(setting.help_for(verb).split()) in said
    assert (f"(default: {VERBS[verb].out})" in said) == bool(VERBS[verb].out)


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_ordered_by_use(verb, capsys):
    said = shown(capsys, verb, "--help")
    first = next(each.panel for each in settings(verb).values() if each.flag)
    panels = [first, "Output", "General", *({"Tensor attention"} & _panels(verb))]
    places = [said.index(f" {panel} --") for panel in dict.fromkeys(panels)]
    assert places == sorted(places)
    assert places[-1] == max(said.index(f" {panel} --") for panel in _panels(verb))


def _panels(verb) -> set[str]:
    return {each.panel for each in settings(verb).values() if each.flag}


def test_the_help_of_finetune_begins_with_task_data_and_rate():
    named = [each.flag for each in settings("finetune").values() if each.panel == "Training"]
    assert named[:3] == ["task", "data", "lr"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_plain_sentences(verb):
    """Its words are held to the rules of the pages; it begins with a capital or a kernel's name."""
    helps = {path: each.help for path, each in settings(verb).items() if each.flag}
    for path, help in (helps | {verb: VERBS[verb].help}).items():
        assert help[0].isupper() or path.startswith("attention."), path
        assert not ODD.search(help), path
        assert max(map(words, sentences(help))) <= LONGEST, path


def test_help_names_all_commands_in_their_order(capsys):
    assert run(["--help"]) == 0
    named = re.findall(r"^│ (\w+) ", capsys.readouterr().out, re.M)
    assert named == [*VERBS, *BESIDE]


def test_without_arguments_the_help(capsys):
    assert run([]) == 0
    assert "compress" in capsys.readouterr().out


def test_a_command_gets_its_recipe_and_prints_its_report(commands, capsys):
    sets = ["--set", "seed=3", "--set", "calibration.samples=9"]
    assert run(["compress", "minilm", "--rank", "8", *sets]) == 0
    (recipe,) = commands.recipes
    assert (recipe.verb, recipe.model, recipe.compression.rank) == ("compress", "minilm", 8)
    assert (recipe.seed, recipe.calibration.samples) == (3, 9)
    out, err = capsys.readouterr()
    assert "3.3100" in out and "noise" not in out and "\x1b" not in out
    assert "noise of a library" in err and "half way" in err


@pytest.mark.parametrize("extra", [[], ["-v"], ["-q"]])
def test_json_is_the_only_thing_on_stdout(commands, capsys, extra):
    assert run(["merge", "m", "--json", *extra]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["schema_version"] == 2
    assert ("half way" in err) == (extra != ["-q"])


def one_sentence(capsys):
    out, err = capsys.readouterr()
    sentence = err.replace("noise of a library\n", "").replace("half way\n", "")
    assert out == "" and sentence.startswith("tlm: ") and sentence.count("\n") == 1
    return sentence.removeprefix("tlm: ").rstrip("\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("compres minilm", "did you mean 'compress'"),
        ("compress m --rnak 8", "tlm compress has no option --rnak; did you mean --rank?"),
        ("compress m --rank", "requires an argument"),
        ("compress m x --rank 8", "unexpected extra argument"),
        ("compress m --rank eight --json", "--rank must be an integer of at least 1, got 'eight'"),
        ("compress m --rank -1", "--rank must be an integer of at least 1, got -1"),
        ("compress --rank 8", "compress needs a MODEL"),
        ("compress m --rank 8 --keep 0.5", "--rank and --keep exclude each other"),
        ("merge m --fail-if loss", "not a comparison"),
        ("profile m --set profiling.bach=2", "did you mean profiling.batch?"),
    ],
)
def test_wrong_usage_exits_2(commands, capsys, args, says):
    assert run(args.split()) == 2
    assert says in one_sentence(capsys)
    assert not commands.recipes


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (NotLoadable("x is no model"), 4, "x is no model"),
        (MissingDependency("install tlm[demo]"), 5, "install tlm[demo]"),
        (CheckFailed("parity"), 3, "parity"),
        (OSError(errno.ENOSPC, "No space left on device", "out/m8"), 1, "the disk is full: out/m8"),
        (RuntimeError("io: No space left on device (os error 28)"), 1, "the disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/m8"),
            1,
            "out/m8: Permission denied",
        ),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1, "out of memory"),
        (ZeroDivisionError("a\nb"), 1, "internal error: ZeroDivisionError: a (please report"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_failures_are_one_sentence_and_a_code(commands, capsys, error, code, says, json_flag):
    commands.answer = error
    assert run(["merge", "m", *json_flag]) == code
    assert says in one_sentence(capsys)


def test_verbose_shows_the_traceback(commands, capsys):
    commands.answer = ZeroDivisionError("oops")
    assert run(["merge", "m", "-v"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_failed_check_exits_3_after_the_report(commands, capsys):
    words = ["compress", "m", "--rank", "2"]
    assert run([*words, "--json", "--fail-if", "loss>3.2"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["quality"]["after"] == 3.31
    assert "tlm: check failed: loss is 3.31" in err
    assert run([*words, "--fail-if", "loss>3.4"]) == 0


def test_a_reader_that_leaves_is_not_a_traceback(tmp_path):
    code = (
        "import sys, types; from tlmtool.report.report import Report\n"
        "from tlmtool.report.parts.ending import Ending\n"
        "more = {'seconds': {}, 'seed': 0, 'versions': {}, 'recipe': {}}\n"
        "long = Ending(warnings=('x' * 99,) * 9999, **more)\n"
        "commands = types.ModuleType('tlmtool.commands.performing')\n"
        "commands.perform = lambda recipe: Report('merge', [long])\n"
        "sys.modules[commands.__name__] = commands\n"
        "from tlmtool.cli import run; sys.exit(run(['merge', 'm'] + sys.argv[1:]))"
    )
    for extra in ([], ["--json"]):
        args = [sys.executable, "-c", code, *extra]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""


def test_third_party_loggers_are_quiet_unless_verbose(commands, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    seen = []
    commands.answer = lambda recipe: (
        seen.append(logging.getLogger("httpx").getEffectiveLevel()) or Report("merge")
    )
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    run(["merge", "m", "-v"])
    run(["merge", "m"])
    assert seen[0] < logging.ERROR <= seen[1]
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
