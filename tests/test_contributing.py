"""Guards "one file or one row, no edit": what is added to a copy of the package passes its laws.

`toys/` mirrors the package. Its files are what a reader of CONTRIBUTING would write; each is copied
to its place. ROWS are what such a reader would add to a table. Nothing else of the copy is changed.
To add a kind of thing: put a file into `toys/` or a row into ROWS, name the tests that are its laws
in LAWS, and a command that uses it in COMMANDS.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import pico, sentences, word_tokenizer

import tlmtool
from tlmtool.data.labelled import Example
from tlmtool.measuring.predictions import predictions
from tlmtool.models import checkpoint
from tlmtool.tasks.table import TASKS

TESTS = Path(__file__).parent
LAWS = {  # a word in the names of a toy's tests: the files that hold its laws
    "toy_kronecker": ("test_laws.py", "test_laws_of_metrics.py", "test_layers.py", "test_words.py"),
    "toy_balanced": ("test_metrics.py",),
    "toy_positive": ("test_attention.py", "test_kernels.py", "test_layers.py", "test_words.py"),
}
ROWS = {  # {file: (the line of its table that a row follows, the row)}
    "tasks/metrics.py": (
        "_METRICS = (\n",
        '    Metric("toy_balanced", "mean share of each class that is right",\n'
        '           "sklearn.metrics:balanced_accuracy_score", beside=("classification",)),\n',
    ),
    "tasks/table.py": (
        "_OTHERS = (\n",
        '    _classes("toy_wnli", ENTAILED, "toy_balanced f1", *PAIR),\n',
    ),
}
EVALUATE = ["evaluate", "classifier", "--data", "labels.csv", "--quiet", "--task"]
COMPRESS = ["compress", "model", "--quiet", "--calibration"]
FACTORS = [*COMPRESS, "none", "--method", "toy_kronecker", "--out"]
MIXED = [*COMPRESS, "texts.txt", "--attention", "toy_positive", "--out"]
COMMANDS = {  # name: a command that runs in a folder with a checkpoint `model` and `texts.txt`
    "by rank": [*FACTORS, "rank", "--rank", "2"],
    "by keep": [*FACTORS, "keep", "--keep", "0.5"],
    "flag": [*MIXED, "flag", "--attention-feature", "softplus"],
    "set": [*MIXED, "set", "--set", "attention.feature=softplus"],
    "alone": ["profile", "--attention", "softmax,toy_positive", "--seq-len", "8,16", "--quiet"],
    "help": ["compress", "--help"],
    "table": [*EVALUATE, "cola"],
    "metric": [*EVALUATE, "cola", "--json", "--fail-if", "toy_balanced>1"],
    "check": [*EVALUATE, "cola", "--fail-if", "toy_balanced<=1"],
    "task": [*EVALUATE, "toy_wnli", "--json"],
}
CODES = {"check": 3}  # exit codes of the commands that do not end with 0
CHILD = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO
import pytest
from tlmtool.cli.app import run
laws, commands = json.loads(sys.argv[1])
done = {"laws": int(pytest.main(laws))}
for name, words in commands.items():
    with redirect_stdout(StringIO()) as said:
        done[name] = [run(words), said.getvalue()]
print(json.dumps(done))
"""
REPORT = """
import json, runpy, sys
from io import StringIO
from rich.console import Console
from tlmtool.report import checks
from tlmtool.report.parts.toy_energy import Energy
from tlmtool.report.report import Report

made = Report("merge", [Energy(joules=3.5)])
table = StringIO()
made.table(Console(file=table, width=100))
checks.check_figure("joules", "merge", {})
print(json.dumps({
    "data": json.loads(made.to_json()),
    "again": Report.read(made.data).data,
    "table": table.getvalue(),
    "card": made.card("x"),
    "docs": runpy.run_path(sys.argv[1])["report"](),
}))
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A copy of the package with the toys in it, and what the commands read."""
    room = tmp_path_factory.mktemp("contributing")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(tlmtool.__file__).parent, room / "tlmtool", ignore=ignored)
    for toy in (TESTS / "toys").rglob("*.py"):
        place = room / "tlmtool" / toy.relative_to(TESTS / "toys")
        assert not place.exists(), f"{place.name} is there already"
        shutil.copy(toy, place)
    for file, (line, row) in ROWS.items():
        table = (room / "tlmtool" / file).read_text()
        assert table.count(line) == 1
        (room / "tlmtool" / file).write_text(table.replace(line, line + row))
    for name, head in (("model", "lm"), ("classifier", "classification")):
        pico("bert", head).save_pretrained(room / name)
        word_tokenizer().save_pretrained(room / name)
    (room / "texts.txt").write_text("\n".join(sentences(20)))
    lines = [f"{text},{text},{text},{int(i % 3 == 0)}" for i, text in enumerate(sentences(20))]
    (room / "labels.csv").write_text("\n".join(["sentence,sentence1,sentence2,label", *lines]))
    return room


@pytest.fixture(scope="module")
def done(room) -> dict:
    """{"laws": exit code of pytest, name of a command: [exit code, output]}, all in one process."""
    files = dict.fromkeys(str(TESTS / file) for files in LAWS.values() for file in files)
    laws = [*files, "-k", " or ".join(LAWS), "-q", "-p", "no:cacheprovider", "--junitxml=laws.xml"]
    env = {**os.environ, "PYTHONPATH": str(room), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given = json.dumps([laws, COMMANDS])
    child = [sys.executable, "-c", CHILD, given]
    ended = subprocess.run(child, cwd=room, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["laws"] == 0, ended.stdout[-4000:]
    return found


@pytest.mark.parametrize("toy", LAWS)
def test_the_laws_run_on_a_new_file_and_hold(toy, done, room):
    ran = re.findall(
        r'<testcase classname="([\w.]*)" name="([^"]*)"', (room / "laws.xml").read_text()
    )
    for file in LAWS[toy]:
        names = [name for where, name in ran if where.endswith(Path(file).stem) and toy in name]
        assert names, f"{file} has no test of {toy}"


def test_the_docs_show_the_toy():
    page = (TESTS.parent / "docs" / "adding.md").read_text("utf-8")
    assert (TESTS / "toys" / "decompositions" / "toy_kronecker.py").read_text("utf-8") in page


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_what_is_new(name, done):
    code, said = done[name]
    assert code == CODES.get(name, 0), said
    if name == "help":
        assert all(toy in said for toy in ("toy_kronecker", "toy_positive", "--attention-feature"))


def test_a_new_metric_is_scored_and_named(done, room):
    score = json.loads(done["metric"][1])["models"][0]
    labels = [int(line[-1]) for line in (room / "labels.csv").read_text().splitlines()[1:]]
    assert score["toy_balanced"] == pytest.approx(balanced(room, labels))
    assert "toy_balanced: mean share of each class that is right" in " ".join(
        done["table"][1].split()
    )


def balanced(room: Path, labels: list[int]) -> float:
    """By hand: the mean over classes of the share of their examples that are right."""
    model, tokenizer = checkpoint.load(room / "classifier"), word_tokenizer()
    examples = [
        Example(text, None, label) for text, label in zip(sentences(20), labels, strict=True)
    ]
    found = predictions(model, tokenizer, TASKS["cola"], examples)
    right = [
        [int(a == b) for a, b in zip(found, labels, strict=True) if b == each] for each in (0, 1)
    ]
    return sum(sum(each) / len(each) for each in right) / 2


def test_a_new_task_is_scored_by_its_metrics(done):
    found = json.loads(done["task"][1])
    score = found["models"][0]
    assert found["metric"] == "toy_balanced and f1"
    assert score["score"] == pytest.approx((score["toy_balanced"] + score["f1"]) / 2)


def made(room: Path, name: str) -> dict:
    return json.loads((room / name / "report.json").read_text())


@pytest.mark.parametrize("name", ["rank", "keep"])
def test_sites_are_held_by_a_new_decomposition(name, done, room):
    report = made(room, name)
    assert {each["decomposition"]["name"] for each in report["sites"]} == {"toy_kronecker"}
    assert "Van Loan" in (room / name / "README.md").read_text()


@pytest.mark.parametrize("name", ["flag", "set"])
def test_layers_are_mixed_by_a_new_kernel(name, done, room):
    layers = made(room, name)["attention"]["layers"]
    assert [each["attention"] for each in layers] == 2 * [
        {"name": "toy_positive", "feature": "softplus"}
    ]
    assert all(0 < each["output_error"] < 1 for each in layers)


@pytest.mark.parametrize("mark", [".#", "._"])
def test_what_an_editor_or_a_disk_keeps_beside_a_file_is_no_new_file(mark, room):
    env = {**os.environ, "PYTHONPATH": str(room)}
    beside = [
        room / "tlmtool" / place.relative_to(TESTS / "toys").with_name(f"{mark}{place.name}")
        for place in (TESTS / "toys").rglob("*.py")
    ]
    for file in beside:
        file.symlink_to("me@host.1")  # to no file, as that of an editor
    child = [sys.executable, "-m", "tlmtool", "compress", "--help"]
    ended = subprocess.run(child, cwd=room, env=env, capture_output=True, text=True, timeout=60)
    for file in beside:
        file.unlink()
    assert beside and ended.returncode == 0 and mark not in ended.stdout, ended.stderr


def test_a_new_part_of_a_report_is_shown_everywhere(room):
    generate = TESTS.parent / "docs" / "generate.py"
    env = {**os.environ, "PYTHONPATH": str(room)}
    child = [sys.executable, "-c", REPORT, str(generate)]
    ended = subprocess.run(child, cwd=room, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = json.loads(ended.stdout)
    assert found["data"]["energy"] == found["again"]["energy"] == {"joules": 3.5}
    assert re.search(r"^joules +3\.5$", found["table"], re.M)
    assert "| joules | 3.5 |" in found["card"]
    assert "## `energy`\n\nThe energy of a run." in found["docs"]
    assert "| `energy.joules` | number | J | energy of the whole run |" in found["docs"]
