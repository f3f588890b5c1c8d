"""`evaluate --out`: figures are added to a checkpoint's report and card; nothing else changes."""

import json
import os
import shutil
import stat
from contextvars import Context
from pathlib import Path

import pytest
import yaml
from conftest import WORDS, pico, word_tokenizer
from huggingface_hub.repocard_data import model_index_to_eval_results

from tlmtool.cli import run
from tlmtool.files.claims import claimed
from tlmtool.report.report import Report

SMALL = ("--max-length", "16", "--device", "cpu", "-q")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a checkpoint that tlm wrote, the model that it is from, and two data sets."""
    room = tmp_path_factory.mktemp("adding")
    pico("bert", "lm").save_pretrained(room / "model")
    word_tokenizer().save_pretrained(room / "model")
    lines = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    (room / "texts.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{a},{b},{i}" for i, (a, b) in enumerate(zip(lines, lines[3:], strict=False))]
    (room / "pairs.csv").write_text("\n".join(rows) + "\n")
    words = ("compress", room / "model", "--rank", "2", "--calibration", "none")
    assert run([*map(str, words), "--out", str(room / "small"), *SMALL]) == 0
    return room


@pytest.fixture
def room(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "room")
    monkeypatch.chdir(tmp_path / "room")
    return tmp_path / "room"


def evaluate(*words, code=0, model="small", out="small"):
    words = ["evaluate", model, *map(str, words), *SMALL]
    assert run([*words, "--out", str(out)] if out else words) == code


def similarity(*more, **where):
    evaluate("--task", "similarity", "--data", "pairs.csv", *more, **where)


def report(folder="small") -> dict:
    with open(f"{folder}/report.json") as file:
        return json.load(file)


def card(folder="small") -> str:
    with open(f"{folder}/README.md") as file:
        return file.read()


def tree(folder):
    return {p: p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


def test_figures_stand_in_the_report_and_the_card_and_all_else_stays(room, capsys):
    before, others = report(), tree(room)
    capsys.readouterr()
    similarity("--baseline", "model", "--json")
    found = json.loads(capsys.readouterr().out)
    (kept,) = (after := report())["evaluations"]
    assert {key: value for key, value in after.items() if key != "evaluations"} == before
    assert kept["model"]["score"] == found["models"][0]["score"]
    assert kept["baseline"] == found["baseline"] and kept["task"] == "similarity"
    assert kept["recipe"] == found["recipe"] and found["model"]["out"] == "small"
    assert f"| similarity of pairs.csv | spearman | {kept['model']['score']:.4f} |" in card()
    assert "interval" in card()
    changed = {p.name for p, each in tree(room).items() if others.get(p) != each}
    assert changed == {"report.json", "README.md"} and set(tree(room)) == set(others)
    assert Report.read(after).card("small") == card()  # as if it had been made with it


def test_the_same_task_and_data_are_replaced_and_others_stay(room):
    similarity()
    evaluate("--task", "mlm", "--data", "texts.txt")
    first = report()["evaluations"]
    similarity("--samples", 6, out=room / "small")
    second = report()["evaluations"]
    assert [each["task"] for each in second] == ["similarity", "mlm"]
    assert second[1] == first[1] and second[0]["model"]["n"] == 6 != first[0]["model"]["n"]
    shutil.copy("pairs.csv", "other.csv")
    evaluate("--task", "similarity", "--data", "./other.csv")
    evaluate("--task", "similarity", "--data", "../room/other.csv")
    assert [each["task"] for each in report()["evaluations"]] == ["similarity", "mlm", "similarity"]
    assert card().count("## Evaluations") == 1 and card().count("similarity of ") == 4


def test_the_hub_reads_the_figures(room):
    similarity()
    evaluate("--task", "mlm", "--data", "texts.txt")
    front = yaml.safe_load(card().split("---\n")[1])
    name, results = model_index_to_eval_results(front["model-index"])
    assert name == "small"
    told = [(each.task_type, each.dataset_name, each.metric_type) for each in results]
    assert told == [
        ("sentence-similarity", "pairs.csv", "spearmanr"),
        ("fill-mask", "texts.txt", "nll"),
    ]
    score = report()["evaluations"][0]["model"]["score"]
    assert results[0].metric_value == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_an_edited_card_keeps_every_word(room, ends):
    mine = (
        card().replace("# small", "# My model\n\nAll of it.").replace("## Recipe", "## My recipe")
    )
    (room / "small" / "README.md").write_bytes(mine.replace("\n", ends).encode())
    for samples in (6, 7):
        similarity("--samples", samples)
        text = (room / "small" / "README.md").read_bytes().decode()
        assert text.count(ends) == text.count("\n")
        assert f"| {samples} |" in text and text.count("## Evaluations") == 1
        start = text.index("## Evaluations")
        end = text.index("## How it was made")
        without = text[:start] + text[end:]
        shown = yaml.safe_load(without.replace(ends, "\n").split("---\n")[1])["model-index"]
        assert shown[0]["results"][0]["metrics"][0]["value"] == pytest.approx(
            report()["evaluations"][0]["model"]["score"], abs=1e-4
        )
        first = without.index("model-index:")
        last = without.index(f"---{ends}", first)
        assert without[:first] + without[last:] == mine.replace("\n", ends)


def test_the_index_of_an_edited_card_follows_the_scores_and_keeps_others(room):
    """Scores that tlm wrote are replaced, those of someone else and their keys stay in place."""
    evaluate("--task", "mlm", "--data", "texts.txt")
    own = {"task": {"type": "fill-mask", "name": "mine"}, "metrics": [{"type": "x", "value": 1.0}]}
    own["dataset"] = {"type": "d", "name": "d"}
    front = yaml.safe_load(card().split("---\n")[1])
    front["model-index"][0]["results"].append(own)
    front["model-index"][0]["name"] = "Mine"
    mine = yaml.safe_dump({**front, "language": "en"}, sort_keys=False)
    (room / "small" / "README.md").write_text(f"---\n{mine}---\n# Mine\n")
    similarity("--samples", 6)
    similarity("--samples", 7)
    found = yaml.safe_load(card().split("---\n")[1])
    assert {k: v for k, v in found.items() if k != "model-index"} == {
        **{k: v for k, v in front.items() if k != "model-index"},
        "language": "en",
    }
    (index,) = found["model-index"]
    assert index["name"] == "Mine" and own in index["results"]
    assert sorted(each["task"]["name"] for each in index["results"]) == [
        "mine",
        "mlm",
        "similarity",
    ]
    (room / "small" / "README.md").write_text("# No front matter\n")
    similarity("--samples", 6)
    assert card().startswith("# No front matter\n")


def test_a_file_keeps_its_mode_and_a_folder_without_a_card_gets_one(room):
    os.chmod("small/report.json", 0o640)
    os.remove("small/README.md")
    similarity()
    assert stat.S_IMODE(os.stat("small/report.json").st_mode) == 0o640
    assert "## Evaluations" in card()


def test_a_copy_with_the_same_weights_takes_the_figures_and_another_model_does_not(room, capsys):
    shutil.copytree("small", "copy")
    similarity(out="copy")
    assert "evaluations" not in report() and len(report("copy")["evaluations"]) == 1
    similarity(model="model", code=2)
    assert "has other weights than model" in capsys.readouterr().err
    assert "evaluations" not in report()


@pytest.mark.parametrize(
    ("prepare", "out", "code", "says"),
    [
        (lambda: None, "nowhere", 4, "does not exist"),
        (lambda: None, "model", 2, "has no report.json of tlm"),
        (lambda: Path("small/report.json").write_text(""), "small", 4, "is no report of tlm"),
        (lambda: Path("small/report.json").write_text("[1]"), "small", 4, "is no report of tlm"),
        (lambda: os.symlink(shutil.move("small/README.md", "elsewhere.md"), "small/README.md"),
         "small", 2, "is a link"),
        (lambda: Path("small/README.md").write_bytes(b"\xff\xfe"), "small", 4, "UTF-8"),
    ],
)  # fmt: skip
def test_what_cannot_take_figures_is_refused_and_left(room, capsys, prepare, out, code, says):
    prepare()
    before = tree(room)
    similarity(out=out, code=code)
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and tree(room) == before


def test_another_version_and_a_claim_are_refused_before_any_work(room, capsys, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", pytest.fail)
    data = report()
    (room / "small" / "report.json").write_text(json.dumps(data | {"schema_version": 1}))
    similarity(code=4)
    assert "is of version 1" in capsys.readouterr().err
    (room / "small" / "report.json").write_text(json.dumps(data))
    claim, other = claimed(room / "small"), Context()
    other.run(claim.__enter__)  # as another run does
    similarity(code=2)
    other.run(claim.__exit__, None, None, None)
    assert "another run is writing" in capsys.readouterr().err


def test_the_data_may_not_be_the_card(room, capsys):
    evaluate("--task", "mlm", "--data", "small/README.md", code=2)
    assert "which is read" in capsys.readouterr().err


def test_a_stage_of_a_pipeline_adds_to_what_an_earlier_one_wrote(room):
    small = {"name": "small", "verb": "compress", "model": "model", "compression": {"rank": 2}}
    small |= {"calibration": {"text": "none"}}
    score = {"task": "mlm", "data": "texts.txt", "out": "@small", "max_length": 16}
    scored = {"name": "score", "verb": "evaluate", "evaluation": score}
    (room / "p.yaml").write_text(yaml.safe_dump({"stages": [small, scored]}))
    words = ["run", "p.yaml", "--out", "o", "-q"]
    assert run(words) == 0 and len(report("o/small")["evaluations"]) == 1
    assert run([*words, "--resume"]) == 0 and len(report("o/small")["evaluations"]) == 1
