"""`compress --data`: the task's score before and after, as `evaluate --baseline` gives it, or why
there is none; and no scored text is one that calibrates or trains."""

import json
import random
from pathlib import Path

import pytest
import trainings
from conftest import WORDS, pico, word_tokenizer
from trainings import arguments

from tlmtool.cli import run
from tlmtool.data.lessons import lesson_of_texts
from tlmtool.report.report import Report

model, data = trainings.model, trainings.data  # its fixtures
SMALL = ("--rank", "2", "--max-length", "16", "--device", "cpu")


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=6))


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A folder with 70 training and 70 development pairs; one text is in both."""
    draw, folder = random.Random(0), tmp_path / "pairs"
    folder.mkdir()
    common = f"{sentence(draw)},{sentence(draw)},1.0"
    for name in ("train", "dev"):
        rows = [f"{sentence(draw)},{sentence(draw)},{draw.random():.3f}" for _ in range(69)]
        lines = ["sentence1,sentence2,score", common, *rows]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def compressed(model, out, *words, code=0) -> dict:
    words = ["compress", str(model), *SMALL, "--out", str(out), "-q", *map(str, words)]
    assert run(words) == code
    return json.loads((out / "report.json").read_text()) if code in (0, 3) else {}


def evaluated(capsys, first, second, *words) -> dict:
    capsys.readouterr()
    words = ["evaluate", str(first), "--baseline", str(second), *map(str, words), "--json", "-q"]
    assert run([*words, "--max-length", "16", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def same(score, found):
    """Whether the part `score` says what an evaluation with a baseline says."""
    baseline = found["baseline"]
    assert score["after"] == pytest.approx(found["models"][0]["score"], abs=1e-9)
    assert score["before"] == pytest.approx(baseline["score"], abs=1e-9)
    assert score["n"] == baseline["n"] and score["method"] == baseline["method"]
    assert score["difference"] == pytest.approx(baseline["difference"], abs=1e-9)
    assert score["interval"] == pytest.approx(baseline["interval"], abs=1e-9)


def test_pairs_give_the_score_and_interval_of_evaluate(model, pairs, tmp_path, capsys):
    report = compressed(model, out := tmp_path / "out", "--data", pairs)
    same(report["score"], evaluated(capsys, out, model, "--task", "similarity", "--data", pairs))
    assert report["calibration"]["source"] == str(pairs)
    assert report["calibration"]["texts"] == 2 * 69  # not the two that are scored too
    assert not any("also scored" in each for each in report["warnings"])
    assert report["quality"]["name"] == "feature_error"
    card = (out / "README.md").read_text()
    assert f"| {report['score']['after']:.4f} |" in card and "Task similarity" in card
    assert Report.read(report).data == Report.read(report | {}).data


def test_labels_give_the_metric_of_the_head(model, data, tmp_path, capsys):
    tuned = tmp_path / "tuned"
    assert run(arguments(model, data, tuned, "--steps", 3)) == 0
    report = compressed(tuned, out := tmp_path / "out", "--data", data)
    found = evaluated(capsys, out, tuned, "--task", "classification", "--data", data)
    assert report["score"]["task"] == "classification" and report["score"]["metric"] == "accuracy"
    same(report["score"], found)


def test_what_tlm_trained_the_head_for_scores_it(model, tmp_path, capsys):
    """CoLA's files have no header, so that only the task says what their columns are."""
    (cola := tmp_path / "cola").mkdir()
    draw = random.Random(1)
    for name in ("train", "dev"):
        rows = [
            f"x\t{i % 2}\t\t{sentence(draw)}" for i in range(40)
        ]  # few, for which an interval is quick
        (cola / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    words = arguments(model, cola, tuned := tmp_path / "tuned", "--steps", 3)
    words[words.index("classification")] = "cola"
    assert run(words) == 0
    report = compressed(tuned, out := tmp_path / "out", "--data", cola)
    assert (report["score"]["task"], report["score"]["metric"]) == ("cola", "matthews")
    same(report["score"], evaluated(capsys, out, tuned, "--task", "cola", "--data", cola))
    compressed(model, tmp_path / "no", "--data", cola, code=4)
    assert "--task NAME" in capsys.readouterr().err


def test_all_of_a_single_file_is_scored_and_calibrates_nothing(model, pairs, tmp_path):
    file = pairs / "dev.csv"
    report = compressed(model, tmp_path / "out", "--data", file)
    assert report["score"]["n"] == 70 and report["calibration"]["source"] != str(file)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(file.read_text().split("\n")[1].split(",")[:2] * 8))
    report = compressed(model, tmp_path / "again", "--data", file, "--calibration", texts)
    assert any("calibration texts are also scored" in each for each in report["warnings"])


def test_a_recovery_is_scored_by_the_same_rows(model, pairs, tmp_path):
    words = ("--data", pairs, "--recover", 2, "--recover-batch", 4)
    report = compressed(model, tmp_path / "out", *words)
    score, recovery = report["score"], report["recovery"]
    assert (score["before"], score["after"]) == (recovery["dense"], recovery["recovered"])
    assert recovery["metric"] == "spearman" and recovery["sentences"] == 2 * 69
    one = compressed(model, tmp_path / "one", "--data", pairs / "train.csv", *words[2:])
    assert one["score"]["n"] == 7 and one["recovery"]["sentences"] == 2 * 63


def test_labels_without_a_head_are_not_scored_and_it_is_said(model, data, tmp_path, capsys):
    report = compressed(model, tmp_path / "out", "--data", data)
    assert "score" not in report
    (told,) = (each for each in report["warnings"] if "is not scored" in each)
    assert "no classification head" in told
    capsys.readouterr()
    for figure in ("score<1", "accuracy<1", "score.difference<0"):
        compressed(model, tmp_path / "no", "--data", data, "--fail-if", figure, code=2)
        assert "is not measured" in capsys.readouterr().err
    compressed(model, tmp_path / "no", "--data", data, "--task", "classification", code=2)
    assert "has no head for it" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_score_can_fail_a_run(model, pairs, tmp_path, capsys):
    words = ("--data", pairs, "--fail-if")
    for figure in ("spearman<1.1", "score<1.1", "score.difference<2"):
        compressed(model, tmp_path / "out", *words, figure, "--overwrite", code=3)
    compressed(model, tmp_path / "no", *words, "matthews<1", code=2)
    assert "is its spearman" in capsys.readouterr().err
    compressed(model, tmp_path / "no", "--fail-if", "spearman<1", code=2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "{texts}"], "give --recover STEPS to train on them"),
        (["--task", "mrpc", "--recover", "2"], "--task goes with --data"),
        (["--task", "cola"], "--task goes with --data"),
        (["--label-column", "y"], "--label-column goes with --data"),
        (["--data", "{texts}", "--recover-lr", "1e-3"], "goes with --recover STEPS"),
    ],
)
def test_what_goes_with_data_is_said(model, tmp_path, capsys, words, says):
    (texts := tmp_path / "texts.txt").write_text("a b c\n" * 30)
    compressed(model, tmp_path / "no", *(w.format(texts=texts) for w in words), code=2)
    assert says in capsys.readouterr().err


def test_a_recovery_without_data_learns_on_the_text_of_the_calibration(model, tmp_path):
    """None of which is held out to measure the result."""
    (texts := tmp_path / "texts.txt").write_text("\n".join(WORDS * 3))
    for own in ([], ["--calibration", texts]):
        report = compressed(model, tmp_path / "out", "--recover", "1", *own, "--overwrite")
        source = str(texts) if own else "the text that comes with tlm"
        assert report["calibration"]["source"] == source
        assert report["recovery"]["sentences"] == report["calibration"]["texts"]
    lesson = lesson_of_texts(None)
    assert lesson.held and not {*lesson.held} & {*lesson.sentences}


def test_a_task_that_is_made_needs_no_data(tmp_path):
    pico("bert", "classification", num_labels=2).save_pretrained(tmp_path / "two")
    word_tokenizer().save_pretrained(tmp_path / "two")
    words = ("--task", "grammar", "--recover", "1", "--fail-if", "score>1")
    assert compressed(tmp_path / "two", tmp_path / "out", *words)["score"]["task"] == "grammar"


def test_a_score_that_is_not_defined_is_warned_of_and_not_listed(model, tmp_path, capsys):
    """All scores are equal."""
    file = tmp_path / "equal.csv"
    file.write_text("text,score\n" + f"{' '.join(WORDS[:4])},1.5\n" * 9)
    pico("bert", "classification", num_labels=1).save_pretrained(tmp_path / "one")
    word_tokenizer().save_pretrained(tmp_path / "one")
    words = ("--data", file, "--task", "regression", "--calibration", "none")
    report = compressed(tmp_path / "one", out := tmp_path / "out", *words)
    assert report["score"]["after"] is None
    assert any("are not defined" in each for each in report["warnings"])
    assert "model-index" not in (out / "README.md").read_text()
