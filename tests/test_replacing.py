"""`--overwrite` replaces what tlm, transformers or sentence-transformers wrote, nothing else."""

import json
import os
import shutil

import pytest
from conftest import pico, word_tokenizer

import tlmtool
from tlmtool.cli import run
from tlmtool.commands.studying import foreign_to_study
from tlmtool.failure import Failure, Usage
from tlmtool.models.replacing import check_out, foreign_to_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint as sentence-transformers lays it out, with a file of the user's beside it."""
    folder = tmp_path_factory.mktemp("room") / "source"
    pico("bert", "lm").save_pretrained(folder, max_shard_size="20KB")
    word_tokenizer().save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    for name in ("vocab.txt", "merges.txt", "chat_template.jinja", "LICENSE", "README.md"):
        (folder / name).write_text("x")
    return folder


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def test_what_the_libraries_write_may_be_replaced(copy):
    assert foreign_to_checkpoint(copy) is None
    for name in ("training_args.bin", "optimizer.pt", "rng_state_1.pth", "trainer_state.json"):
        (copy / name).write_text("a Trainer's")
    assert foreign_to_checkpoint(copy) is None


FOREIGN = [
    ".git/HEAD",
    ".env",
    "thesis.tex",
    "thesis.md",
    "notes.txt",
    "train.py",
    "explore.ipynb",
    "data.csv",
    "checkpoint-500/config.json",
    "checkpoint-500/model.safetensors",
    "2_Dense/config.json",
    "1_Pooling/thesis.tex",
    "src/config.json",
    "best.safetensors",
    "model.pt",
    "config.yaml",
    "adapter_model.safetensors",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_whatever_else_is_in_it_keeps_it(copy, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("mine")
    first = name if name.startswith("1_") or "/" not in name else f"{name.partition('/')[0]}/"
    with pytest.raises(Usage, match="so it is not replaced") as caught:
        check_out(copy, True)
    assert f" {first}, which neither" in str(caught.value)


def test_links_and_what_is_no_file_are_foreign(copy, tmp_path):
    (tmp_path / "w").write_text("elsewhere")
    for make in (
        lambda place: place.symlink_to(tmp_path / "w"),
        lambda place: os.mkfifo(place),
        lambda place: place.mkdir(),
    ):
        file = copy / "model.safetensors"
        make(file)
        with pytest.raises(Usage, match=r"holds model\.safetensors"):
            check_out(copy, True)
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


@pytest.mark.parametrize(
    "config", [None, "", "{", "[]", "{}", '{"model_type": null}', '{"name": "app"}', "[" * 9999]
)
def test_a_config_of_another_kind_keeps_it(tmp_path, config):
    (tmp_path / "app").mkdir()
    if config is not None:
        (tmp_path / "app" / "config.json").write_text(config)
    (tmp_path / "app" / "main.c").write_text("int main")
    with pytest.raises(Usage, match=r"holds no checkpoint.*main\.c, so it is not replaced"):
        check_out(tmp_path / "app", True)
    with pytest.raises(Usage, match=r"holds no checkpoint.*main\.c, so it is not replaced"):
        tlmtool.save(pico("bert"), tmp_path / "app", overwrite=True)
    assert (tmp_path / "app" / "main.c").exists()


def test_the_first_foreign_file_ends_the_search(copy, monkeypatch):
    """However much lies below it."""
    deep = copy / "node_modules" / "deep"
    deep.mkdir(parents=True)
    seen = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: seen.append(str(place)) or real(place))
    assert "node_modules/" in foreign_to_checkpoint(copy)
    assert not [place for place in seen if "node_modules" in place]


def test_what_travelled_along_does_not_keep_our_own_folder(copy, tmp_path):
    """But what came later does."""
    (copy / "notes.txt").write_text("travels")
    words = ["compress", str(copy), "--rank", "2", "--calibration", "none", "-q"]
    words += ["--out", str(tmp_path / "o"), "--max-shard-size", "20KB"]
    assert run(words) == 0
    assert (tmp_path / "o" / "notes.txt").exists()
    listed = json.loads((tmp_path / "o" / "report.json").read_text())["files"]
    there = [p.relative_to(tmp_path / "o") for p in (tmp_path / "o").rglob("*") if p.is_file()]
    assert listed == sorted(map(str, there))
    assert run([*words, "--overwrite"]) == 0
    (tmp_path / "o" / "thesis.txt").write_text("mine")
    assert run([*words, "--overwrite"]) == 2
    assert (tmp_path / "o" / "thesis.txt").exists()
    assert sorted(os.listdir(tmp_path)) == ["copy", "o"]


def test_what_arrives_during_the_run_is_kept_and_so_is_the_result(tmp_path):
    out = tlmtool.save(pico("bert"), tmp_path / "o")

    def arrives(folder):
        (out / "thesis.tex").write_text("mine")
        return {}

    with pytest.raises(Failure, match=r"thesis\.tex.*it is .*o\.finished$"):
        tlmtool.save(pico("bert", seed=1), out, overwrite=True, texts=arrives)
    assert (out / "thesis.tex").read_text() == "mine"
    assert tlmtool.load(tmp_path / "o.finished").config.model_type == "bert"
    assert sorted(os.listdir(tmp_path)) == ["o", "o.finished"]


def test_a_study_that_holds_anything_else_is_not_replaced(source, tmp_path, capsys):
    study, text = tmp_path / "study", tmp_path / "t.txt"
    study.mkdir()
    text.write_text("the cat sat")
    for name in ("study.json", "report.json", "rate-1e-05.json", "mpo-static-seed12.json"):
        (study / name).write_text('{"schema_version": 1, "verb": "finetune"}')
    (study / ".dense-seed0.json.77.unfinished").write_text("{")
    assert foreign_to_study(study) is None
    words = ["finetune", source, "--task", "mlm", "--data", text, "--seeds", 1, "--out", study]
    words = [*map(str, words), "--overwrite", "-q"]
    for name in ("thesis.md", "src/main.c", "notes.json", "seed1.json"):
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text("mine")
        assert run(words) == 2
        assert f"holds {name.replace('main.c', '')}, which no study" in capsys.readouterr().err
        (study / name).unlink()
        if "/" in name:
            (study / name).parent.rmdir()
    assert sorted(os.listdir(tmp_path)) == ["study", "t.txt"]
