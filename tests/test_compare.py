"""`tlm compare`: what is aligned, what is called different, and what is refused or left blank."""

import csv
import io
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS, pico, word_tokenizer
from made_reports import compressed, evaluated, profiled

from tlmtool.cli import run
from tlmtool.commands.compare import compare
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.intervals import by_left_out, paired_interval
from tlmtool.measuring.marks import left_out, mark
from tlmtool.report.building import built
from tlmtool.report.parts.ending import Source
from tlmtool.report.parts.evaluation import Evaluation
from tlmtool.report.report import Report

RNG = np.random.default_rng(0)


def quality(after: float, gone: list[float], sha: str = "a" * 64, **more) -> dict:
    found = {"name": "loss", "what": "mean NLL of a token", "before": 3.0, "after": after}
    return found | {"examples": {"sha256": sha, "left_out": gone}} | more


def sums(folder: Path) -> dict:
    """The sums of the weights that `written` pretends to have put in a folder."""
    return {"model.safetensors": sha256(folder.name.encode()).hexdigest()}


def written(folder: Path, after: float = 3.2, gone: list[float] | None = None, **more) -> Path:
    """A folder with a report."""
    gone = [after, after + 0.01, after - 0.01] if gone is None else gone
    sizes = compressed().data["parameters"] | {"keep": more.pop("keep", 0.8)}
    report = compressed(quality=quality(after, gone, more.pop("sha", "a" * 64)), parameters=sizes)
    data = json.loads(report.to_json()) | {"files": [], "sums": sums(folder)} | more
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(data))
    return folder


@pytest.fixture
def three(tmp_path) -> list[Path]:
    a, b = [3.2, 3.21, 3.19], [3.3, 3.31, 3.3]
    return [
        written(tmp_path / "a", 3.2, a),
        written(tmp_path / "b", 3.3, b, keep=0.6),
        written(tmp_path / "c", 3.1, a, sha="b" * 64, keep=0.9),
    ]


def records(capsys, *words) -> list[dict]:
    assert run(["compare", *map(str, words), "--format", "csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_a_difference_has_an_interval_where_the_examples_are_the_same(three, capsys):
    rows = {row["name"]: row for row in records(capsys, *three)}
    assert float(rows["b"]["loss.difference"]) == pytest.approx(0.1)
    low, high = float(rows["b"]["loss.low"]), float(rows["b"]["loss.high"])
    assert low < 0.1 < high and high - low == pytest.approx(2 * 4.302653 * 0.02 / 3, rel=1e-3)
    assert rows["a"]["loss.difference"] == ""
    assert float(rows["minilm, dense"]["loss"]) == 3.0


def test_other_examples_are_shown_and_not_compared(three, capsys):
    rows = {row["name"]: row for row in records(capsys, *three)}
    assert float(rows["c"]["loss"]) == 3.1 and rows["c"]["loss.difference"] == ""
    assert run(["compare", *map(str, three)]) == 0
    assert "c: measured on other examples than the baseline" in capsys.readouterr().out


def test_rows_are_sorted_and_chosen(three, capsys):
    def names(*words) -> list[str]:
        return [r["name"] for r in records(capsys, *three, *words) if "," not in r["name"]]

    assert names("--sort", "loss") == ["c", "a", "b"]
    assert names("--sort", "-keep") == ["c", "a", "b"]
    assert names("--where", "keep<0.85", "--where", "loss>=3.25") == ["b"]
    assert names("--where", "parameters.after>1", "--sort", "parameters.keep") == ["b", "a", "c"]
    rows = {r["name"]: r for r in records(capsys, *three, "--baseline", three[1])}
    assert float(rows["a"]["loss.difference"]) == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--where", "keep<0.1"], 2, "keep<0.1 is true of none of the 3 results"),
        (["--where", "kep<0.1"], 2, "no result has one figure kep; they have keep, parameters"),
        (["--where", "keep"], 2, "the check 'keep' is not a comparison"),
        (["--sort", "speed"], 2, "no result has one figure speed"),
        (["--baseline", "z"], 2, "--baseline z is none of the results: a, b, c"),
        (["--format", "xml"], 2, "--format is xml; it is one of table, csv"),
        (["--out", "page.pdf"], 2, "is no .html file"),
        (["no-such-folder"], 4, "no-such-folder does not exist: give folders in which"),
        ([str(Path(__file__).parent)], 4, "holds no report.json, nor does a folder in it"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(three, capsys, words, code, said):
    assert run(["compare", *map(str, three), *words]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1, "verb": "compress"}', "{}"])
def test_a_file_that_is_no_report_is_one_sentence(tmp_path, capsys, text):
    (tmp_path / "report.json").write_text(text)
    assert run(["compare", str(tmp_path)]) == 4
    err = capsys.readouterr().err
    assert "report.json" in err and err.count("\n") == 1


def test_a_report_without_marks_is_told(three, tmp_path, capsys):
    data = json.loads((three[1] / "report.json").read_text())
    del data["quality"]["examples"]
    (three[1] / "report.json").write_text(json.dumps(data))
    rows = {row["name"]: row for row in records(capsys, *three)}
    assert rows["b"]["loss"] and not rows["b"]["loss.difference"]
    assert run(["compare", *map(str, three)]) == 0
    assert "b: its report, or the baseline's, has no mark" in capsys.readouterr().out


def test_verbs_are_mixed_and_that_is_told(three, tmp_path, capsys):
    data = json.loads(profiled().to_json())
    data["models"][0]["sums"] = json.loads((three[0] / "report.json").read_text())["model"][
        "sha256"
    ]
    (tmp_path / "p.json").write_text(json.dumps(data))
    found = compare([*three, tmp_path / "p.json"])
    assert found.notes == [
        "results of compress, profile: a figure stands only where a command measures it"
    ]
    assert [row.name for row in found.table.rows[-2:]] == ["c", "p.json: out/m8"]
    assert "latency" in found.table.known[0].cells  # of minilm, dense
    assert found.table.rows[-1].cells["latency"].value == pytest.approx(6.17)


def test_json_markdown_and_latex_hold_every_row(three, capsys):
    for kind in ("json", "markdown", "latex"):
        assert run(["compare", *map(str, three), "--format", kind]) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in ("minilm, dense", "3.3000" if kind != "json" else "3.3"))
        if kind == "json":
            assert [each["name"] for each in json.loads(out)["results"]][-3:] == ["a", "b", "c"]
        if kind == "latex":
            assert out.count(r"\begin{tabular}") == out.count(r"\end{tabular}") > 1
            assert all(line.endswith(r"\\") for line in out.splitlines() if " & " in line)


def test_an_interval_by_groups_is_near_that_of_resamples():
    """Of a mean and of a correlation, of 400 examples, which are left out in 64 groups."""
    x = RNG.normal(size=(3, 400))
    truth, one, two = x[0], x[0] + 0.5 * x[1], x[0] + 0.9 * x[2]

    def correlation(values):
        return lambda i: np.array([np.corrcoef(truth[j], values[j])[0, 1] for j in i])

    def mean(values):
        return lambda i: values[i].mean(-1)

    for of in (correlation, mean):
        apart = np.subtract(left_out(of(one), 400), left_out(of(two), 400))
        whole = np.arange(400)[None]
        found = by_left_out(apart, float(of(one)(whole)[0] - of(two)(whole)[0]))
        true = paired_interval(of(one), of(two), 400)
        assert len(apart) == 64
        assert found[1] - found[0] == pytest.approx(true[1] - true[0], rel=0.25)


def test_a_mark_tells_examples_and_how_they_are_read_apart():
    rows = [("a", "b", 1.0), ("c", "d", 2.0)]
    marks = {
        mark("similarity", rows),
        mark("similarity", rows[::-1]),
        mark("cola", rows),
        mark("similarity", rows, 128),
    }
    assert len(marks) == 4 and mark("similarity", list(rows)) in marks


def test_two_evaluations_alone_give_nearly_what_one_with_a_baseline_gives(tmp_path):
    """The same difference, and an interval of nearly the same width."""
    models = [pico("bert", "lm", seed=seed) for seed in (0, 1)]
    given = (word_tokenizer(), [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] * 12)
    for place, each in enumerate(models):
        found = evaluate("mlm", each, *given)
        found.pop("warnings")
        parts = [Source(data="lines.txt"), built(Evaluation, found)]
        (tmp_path / f"{place}.json").write_text(Report("evaluate", parts).to_json())
    table = compare([tmp_path / "1.json", tmp_path / "0.json"]).table
    apart = table.difference(table.rows[1], "mlm.nll")
    together = evaluate("mlm", models[0], *given, baseline=models[1])["baseline"]
    assert apart.value == pytest.approx(together["difference"], abs=1e-6)
    low, high = together["interval"]
    assert apart.interval[1] - apart.interval[0] == pytest.approx(high - low, rel=0.4)


def test_a_second_model_of_an_evaluation_is_a_row(tmp_path):
    (tmp_path / "e.json").write_text(evaluated().to_json())
    rows = compare([tmp_path / "e.json"]).table.rows
    assert [row.name for row in rows] == ["e.json", "e.json: minilm"]
    assert [row.cells["similarity.spearman"].value for row in rows] == [0.8441, 0.8671]


def test_what_was_measured_of_a_result_stands_in_its_row(three, tmp_path, monkeypatch):
    """An evaluation of it, also as a baseline, by its weights: their path may be another's now."""
    data = json.loads(evaluated().to_json())
    data["models"][0] |= {"id": "c", "sums": sums(three[0])}
    data["baseline"] |= {"id": "c", "sums": sums(three[1])}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.json").write_text(json.dumps(data))
    rows = {row.name: row for row in compare([*three, tmp_path / "e.json"]).table.rows}
    assert [*rows] == ["a", "b", "c"]
    assert [rows[name].cells["similarity.spearman"].value for name in "ab"] == [0.8441, 0.8671]
    alone = compare(three).table.rows
    assert [row.cells["seconds"] for row in alone] == [r.cells["seconds"] for r in rows.values()]
    assert len(compare([*three, tmp_path / "e.json"]).page("x").split("<details")) == 5
