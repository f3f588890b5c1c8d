"""What a compression keeps beside its result: whose it is, whether it is whole, when it goes."""

import json
import shutil

import compressions
from compressions import arguments, made
from conftest import pico
from trainings import interrupted, sentence

from tlmtool.cli import run
from tlmtool.compression.journal import Journal

texts, models, words, stopped = (
    compressions.texts,
    compressions.models,
    compressions.words,
    compressions.stopped,
)  # its fixtures


def test_another_run_is_refused(words, tmp_path, stopped, capsys, texts):
    """Of another recipe, or on files that have changed; nothing that is kept is lost."""
    model, text, folder = tmp_path / "model", tmp_path / "text.txt", tmp_path / "out.compressing"
    shutil.copytree(words[1], model), shutil.copy(texts, text)
    words = arguments(model, text, tmp_path / "out", "--keep", "0.5")
    stopped(words, 3)
    kept = {file: file.read_bytes() for file in folder.iterdir()}
    for more, says in [
        (["--keep", "0.6"], "compression.keep 0.5, not 0.6"),
        (["--seed", "7"], "seed 0, not 7"),
        (["--fit", "once"], "compression.fit 'sequential', not 'once'"),
    ]:
        assert run([*words, *more, "--resume"]) == 2 and says in sentence(capsys)
    for file in (model / "model.safetensors", model / "config.json", text):
        before = file.read_bytes()
        if file.suffix == ".safetensors":
            pico("bert", "lm", seed=5).save_pretrained(model)
        else:
            file.write_bytes(before + b" ")
        assert run([*words, "--resume"]) == 2 and f"{file.name} (" in sentence(capsys)
        file.write_bytes(before)
    assert {file: file.read_bytes() for file in folder.iterdir()} == kept
    assert run([*words, "--dry-run"]) == 0
    assert run([*words, "--resume", "--max-shard-size", "1MB"]) == 0 and not folder.exists()


def test_what_follows_a_damaged_file_is_done_again(words, tmp_path, stopped, capsys):
    assert run(arguments(words[1], words[3], tmp_path / "whole", "--keep", "0.5")) == 0
    folder, whole = tmp_path / "out.compressing", made(tmp_path / "whole")
    for damage in (
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
    ):
        stopped(words, 5)
        damage(folder / "group-0002.safetensors")
        told = stopped([*words, "--resume"], 3)
        assert "group-0002.safetensors is missing or damaged" in told and "interrupted" in told
        assert run([*words, "--resume"]) == 0
        assert made(tmp_path / "out") == whole
        shutil.rmtree(tmp_path / "out")
    stopped(words, 2)
    state = folder / "state.pt"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert run([*words, "--resume"]) == 4 and "state.pt is damaged" in sentence(capsys)
    assert run([*words, "--overwrite"]) == 0
    assert made(tmp_path / "out") == whole and not folder.exists()


def test_files_of_others_in_its_place_stay(words, tmp_path, capsys):
    folder = tmp_path / "out.compressing"
    folder.mkdir()
    for name in ("state.pt", "group-0000.safetensors"):
        (folder / name).write_text("mine")
        for more in ([], ["--resume"], ["--overwrite"]):
            assert run([*words, *more]) == 2
            assert f"{name}, where" in (said := sentence(capsys)) and "not written by tlm" in said
        assert (folder / name).read_text() == "mine"
        (folder / name).unlink()
    (folder / "notes.txt").write_text("mine")
    assert run(words) == 0 and [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_overwrite_starts_again_and_resume_without_a_state_too(words, tmp_path, stopped, capsys):
    stopped(words, 5)
    stopped([*words, "--overwrite"], 1)
    folder = tmp_path / "out.compressing"
    assert {file.name for file in folder.iterdir()} == {"state.pt", "group-0000.safetensors"}
    shutil.rmtree(folder)
    loud = [word for word in words if word != "-q"]
    assert run([*loud, "--resume"]) == 0
    assert "out.compressing holds no interrupted run" in capsys.readouterr().err


def test_a_finished_run_is_done(words, tmp_path, capsys, monkeypatch):
    """Also where it was killed after its result was put in place."""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", interrupted)
        assert run(words) == 130
    assert (tmp_path / "out.compressing" / "state.pt").exists()
    before = made(tmp_path / "out")
    capsys.readouterr()
    for _ in range(2):
        assert run([*words, "--resume", "--json"]) == 0
        found = capsys.readouterr()
        assert "is done already" in found.err and json.loads(found.out)["verb"] == "compress"
        assert not (tmp_path / "out.compressing").exists() and made(tmp_path / "out") == before
    assert run([*words, "--resume", "--keep", "0.4"]) == 2
    assert "compression.keep 0.5, not 0.4" in sentence(capsys)
