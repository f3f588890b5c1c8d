"""Resuming needs the same files, and a finished run is done."""

import json
import shutil
from pathlib import Path

import trainings
from conftest import pico
from trainings import arguments, interrupted, sentence

from tlmtool.cli import run
from tlmtool.data import state
from tlmtool.data.fingerprints import sums_of
from tlmtool.recipe.building import build
from tlmtool.training.loop import Trainer

model, data, stopped, pipeline = (
    trainings.model,
    trainings.data,
    trainings.stopped,
    trainings.pipeline,
)  # its fixtures
SHORT = ["--steps", 4, "--save-every", 1, "--batch", 4]


def test_each_file_that_a_run_reads_is_to_be_the_same(model, data, tmp_path, capsys, stopped):
    """Train, development, the model's, its tokenizer's, the teacher's; not one that is not read."""
    source, read, teacher = (tmp_path / name for name in ("source", "read", "teacher"))
    shutil.copytree(model, source), shutil.copytree(data, read), shutil.copytree(model, teacher)
    words = arguments(
        source, read, tmp_path / "out", *SHORT, "--teacher", teacher, "--train", "all"
    )
    stopped(words, 2)
    folder = tmp_path / "out.training"
    for file, where in [
        (read / "train.tsv", "training.data"),
        (read / "dev.tsv", "training.data"),
        (source / "model.safetensors", "model"),
        (source / "tokenizer_config.json", "model"),
        (teacher / "model.safetensors", "distillation.teacher"),
    ]:
        before = file.read_bytes()
        if file.suffix == ".safetensors":
            pico("bert", seed=5).save_pretrained(file.parent)
        else:
            file.write_bytes(before + (b"the cat\t1\n" if file.suffix == ".tsv" else b" "))
        kept = {each: each.read_bytes() for each in folder.iterdir()}
        assert run([*words, "--resume"]) == 2
        assert f"{file.name} ({where})" in sentence(capsys)
        assert {each: each.read_bytes() for each in folder.iterdir()} == kept
        file.write_bytes(before)
    (read / "notes.md").write_text("mine")
    (source / "README.md").write_text("a card")
    assert run([*words, "--resume"]) == 0 and not folder.exists()


def read_of(folder: Path, task: str = "mlm") -> set[str]:
    """The files whose sums are kept of a folder of data."""
    given = {"task": task, "data": str(folder)}
    return {*sums_of(build("finetune", flags={"model": "m"} | given))["training.data"]}


def test_data_beside_a_config_are_data(data, tmp_path):
    read = shutil.copytree(data, tmp_path / "read")
    (read / "config.json").write_text("{}")
    assert read_of(read, "classification") == {"train.tsv", "dev.tsv"}


def test_translation_reads_test_files_and_no_other_task_does(tmp_path):
    pairs = {f"{split}.{side}" for split in ("train", "test") for side in ("en", "de")}
    for name in pairs:
        (tmp_path / name).write_text("a\n")
    assert read_of(tmp_path, "translation") == pairs
    assert read_of(tmp_path) == {"train.en", "train.de"}


def test_of_a_folder_only_a_data_set_is_read(tmp_path):
    """Not a home, whose films and hidden folders no reading of data opens."""
    for name in ("film.mp4", "a/notes.txt", ".git/objects.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert read_of(tmp_path) == set()
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "a" / "data-00000-of-00001.arrow").write_text("x")
    assert read_of(tmp_path) == {
        "dataset_info.json",
        "a/notes.txt",
        "a/data-00000-of-00001.arrow",
    }


def test_a_study_goes_on_with_the_same_data_alone(model, data, tmp_path, capsys):
    read, out = shutil.copytree(data, tmp_path / "read"), tmp_path / "study"
    words = arguments(model, read, out, "--steps", 2, "--seeds", 2, "--arms", "dense")
    assert run(words) == 0
    (out / "dense-seed1.json").unlink()
    before, train = (out / "dense-seed0.json").read_bytes(), read / "train.tsv"
    train.write_text(train.read_text() + "the cat\t1\n")
    assert run([*words, "--resume"]) == 2
    assert "train.tsv (training.data)" in sentence(capsys)
    assert (out / "dense-seed0.json").read_bytes() == before
    other = tmp_path / "other"
    words[words.index(str(out))] = str(other)
    assert run(words) == 0
    shutil.copy(out / "dense-seed0.json", other)  # of another study
    capsys.readouterr()
    assert run([*words, "--resume"]) == 4
    assert "is of another study" in sentence(capsys)


def test_what_is_kept_of_a_stopped_training_is_told(model, data, tmp_path, capsys, monkeypatch):
    """Its state, or of a study the trainings that are done; with the command that goes on."""
    learn, steps = Trainer.learn, []

    def stopping(self, *given):
        steps.append(self.step)
        return interrupted() if len(steps) == 4 else learn(self, *given)

    monkeypatch.setattr(Trainer, "learn", stopping)
    words = arguments(model, data, tmp_path / "out", *SHORT)
    assert run(words) == 130
    told = f"its state is in {tmp_path / 'out.training'}: go on with tlm {' '.join(words)} --resume"
    assert told in sentence(capsys)
    steps.clear()
    study = arguments(
        model, data, tmp_path / "study", "--steps", 2, "--seeds", 2, "--arms", "dense"
    )
    assert run(study) == 130
    told = f"1 of 2 trainings are done: go on with tlm {' '.join(study)} --resume"
    assert told in sentence(capsys)


def test_a_stage_is_done_of_the_same_files_alone(pipeline, tmp_path, capsys):
    assert run(pipeline) == 0
    made = (tmp_path / "out" / "b" / "report.json").read_bytes()
    text = tmp_path / "texts.txt"
    before = text.read_text()
    text.write_text(before + "the cat sat\n")
    capsys.readouterr()
    assert run([*pipeline, "--resume"]) == 2
    assert "texts.txt (evaluation.data) was changed" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1 and (tmp_path / "out" / "b" / "report.json").read_bytes() == made
    text.write_text(before)
    shutil.rmtree(tmp_path / "out" / "a")  # made again, the same
    assert run([*pipeline, "--resume"]) == 0
    assert (tmp_path / "out" / "b" / "report.json").read_bytes() == made
    pico("bert", "lm", seed=3).save_pretrained(tmp_path / "out" / "a")
    assert run([*pipeline, "--resume"]) == 2
    assert "(model) was changed" in capsys.readouterr().err
    assert run([*pipeline, "--overwrite"]) == 0


def test_a_stray_rank_leaves_a_finished_run_as_it_is(model, data, tmp_path, capsys, monkeypatch):
    """What a killed run left goes, as without the variable."""
    words = arguments(model, data, tmp_path / "out", *SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(state.Store, "remove", interrupted)
        assert run(words) == 130
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")
    assert run([*words, "--resume"]) == 0 and "is done already" in capsys.readouterr().err
    assert not (tmp_path / "out.training").exists()


def test_a_finished_run_is_done(model, data, tmp_path, capsys, monkeypatch):
    """Killed after its result was put in place, or resumed again; not that of another recipe."""
    out = tmp_path / "out"
    words = arguments(model, data, out, *SHORT, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(state.Store, "remove", interrupted)
        assert run(words) == 130
    assert (tmp_path / "out.training" / "state.pt").exists()
    before = {file: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    for _ in range(2):
        assert run([*words, "--resume"]) == 0
        found = capsys.readouterr()
        assert "is done already" in found.err and found.err.count("\n") == 1
        assert json.loads(found.out)["training"]["steps"] == 4
        assert not (tmp_path / "out.training").exists()
        assert {file: file.read_bytes() for file in out.iterdir()} == before
    assert run([*words, "--resume", "--seed", "7"]) == 2
    assert "seed 0, not 7" in sentence(capsys)
    assert run(words) == 2 and "--overwrite" in sentence(capsys)
    assert run([*words, "--resume", "--overwrite"]) == 0
    assert "is done" not in capsys.readouterr().err
