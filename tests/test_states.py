"""The state of a run on disk: unbroken or refused, its place, and what a full disk leaves."""

import errno
import multiprocessing
import os
import random
import resource
from pathlib import Path

import pytest
import torch
import trainings
from trainings import arguments, sealed, sentence, weights

from tlmtool.cli import run
from tlmtool.data import state
from tlmtool.recipe.sources import FORMER
from tlmtool.training.loop import Trainer

model, data, stopped = trainings.model, trainings.data, trainings.stopped  # its fixtures
SHORT = ["--steps", 4, "--save-every", 1, "--batch", 4]


def test_a_flipped_bit_is_found_wherever_it_is(model, data, tmp_path, capsys, stopped, monkeypatch):
    words = arguments(model, data, tmp_path / "out", *SHORT)
    stopped(words, 2)
    file = tmp_path / "out.training" / "state.pt"
    whole, draw = file.read_bytes(), random.Random(0)
    monkeypatch.setattr(Trainer, "learn", lambda *args: pytest.fail("a step was taken"))
    places = [0, len(whole) - 1, len(whole) - 70, *draw.sample(range(len(whole)), 5)]
    store = state.Store(tmp_path / "out", {})
    for place in [*places, *draw.sample(range(len(whole)), 200)]:
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        with pytest.raises(state.NotLoadable):
            store.load()
        if place in places[:4]:
            assert run([*words, "--resume"]) == 4 and "state.pt" in sentence(capsys)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(state.NotLoadable):
            store.load()
    file.unlink()
    os.symlink(tmp_path, file.parent / "state.pt")
    assert run([*words, "--resume"]) == 4 and "state.pt" in sentence(capsys)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_the_place_of_the_state_is_a_folder(kind, model, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "learn", lambda *args: pytest.fail("a step was taken"))
    place = tmp_path / "out.training"
    (tmp_path / "mine").mkdir()
    os.symlink(tmp_path / "mine", place) if kind == "link" else place.write_text("mine")
    for more in ([], ["--resume"], ["--overwrite"]):
        assert run([*arguments(model, data, tmp_path / "out", *SHORT), *more]) == 2
        assert f"is a {kind}" in sentence(capsys)


@pytest.mark.parametrize("name", ["state.pt", "replaced.pt"])
def test_files_of_others_in_the_place_of_the_state_stay(name, model, data, tmp_path, capsys):
    """Whatever was asked for; also where the run is done already."""
    words = arguments(model, data, tmp_path / "out", *SHORT)
    file = tmp_path / "out.training" / name
    file.parent.mkdir()
    file.write_text("mine")
    for more in ([], ["--resume"], ["--overwrite"]):
        assert run([*words, *more]) == 2 and f"{file}, where" in sentence(capsys)
    torch.save({"weight": torch.ones(2)}, file)
    kept = file.read_bytes()
    assert run([*words, "--overwrite"]) == 2 and "was not written by tlm" in sentence(capsys)
    file.rename(tmp_path / "aside")
    assert run(words) == 0
    file.parent.mkdir()
    (tmp_path / "aside").rename(file)
    capsys.readouterr()
    assert run([*words, "--resume"]) == 2 and "was not written by tlm" in sentence(capsys)
    assert file.read_bytes() == kept


def test_a_state_of_an_older_tlm_is_told_and_replaced(model, data, tmp_path, capsys):
    words = arguments(model, data, tmp_path / "out", *SHORT)
    file = tmp_path / "out.training" / "state.pt"
    file.parent.mkdir()
    torch.save({"identity": {}, "state": {"step": 1, "model": torch.ones(2)}}, file)
    assert run([*words, "--resume"]) == 2 and "another version of tlm" in sentence(capsys)
    assert run([*words, "--overwrite"]) == 0 and not file.parent.exists()


def test_a_state_with_former_names_of_settings_goes_on(model, data, tmp_path, capsys, stopped):
    """As an earlier tlm wrote it."""
    words = arguments(model, data, tmp_path / "out", *SHORT)
    stopped(words, 2)
    file = tmp_path / "out.training" / "state.pt"
    kept = torch.load(file, weights_only=True)
    for former, today in FORMER.items():
        if today not in kept["identity"]:
            continue  # a setting of another verb
        kept["identity"][former] = kept["identity"].pop(today)
    sealed(file, kept)
    assert run([*words, "--resume", "--method", "svd"]) == 2
    assert "strategy.method 'mpo', not 'svd'" in sentence(capsys)
    assert run([*words, "--resume"]) == 0


def test_a_pipe_in_the_place_of_a_state_is_not_waited_for(model, data, tmp_path, capsys):
    words = arguments(model, data, tmp_path / "out", *SHORT)
    place = tmp_path / "out.training"
    place.mkdir()
    os.mkfifo(place / "state.pt")
    assert run([*words, "--resume"]) == 4 and "is a named pipe" in sentence(capsys)
    with pytest.raises(state.NotLoadable, match="is a named pipe"):
        state.Store(tmp_path / "out", {}).load()
    (place / "state.pt").rename(place / ".state.pt.unfinished")
    state.Store(tmp_path / "out", {}).save({})
    assert (place / ".state.pt.unfinished").is_file()


def test_a_newer_format_and_other_processes_are_told(model, data, tmp_path, capsys, stopped):
    words = arguments(model, data, tmp_path / "out", *SHORT)
    stopped(words, 2)
    file = tmp_path / "out.training" / "state.pt"
    kept = torch.load(file, weights_only=True)
    for change, says in [
        ({"format": state.FORMAT + 1}, "of another version of tlm"),
        ({"identity": kept["identity"] | {"processes": 2}}, "processes 2, not 1"),
    ]:
        sealed(file, kept | change)
        assert run([*words, "--resume"]) == 2 and says in sentence(capsys)


def test_a_full_disk_is_an_error_of_the_system_and_the_last_state_stays(tmp_path, monkeypatch):
    store = state.Store(tmp_path / "out", {"seed": 0})
    first = {"step": 1, "weight": torch.arange(9999.0)}
    store.save(first)
    store.keep()
    kept = (store.folder / "state.pt").read_bytes()
    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        for room in (0, 1000, 30000, len(kept) - 20):

            class Full:
                """A file on a disk with so much room left."""

                def __init__(self, opened, room=room, number=number):
                    self.opened, self.room, self.number = opened, room, number

                def write(self, data):
                    self.room -= len(data)
                    if self.room < 0:
                        raise OSError(self.number, os.strerror(self.number))
                    return self.opened.write(data)

                def __getattr__(self, name):
                    return getattr(self.opened, name)

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.opened.close()

            opening = Path.open
            with monkeypatch.context() as patch:
                patch.setattr(Path, "open", lambda *a, opening=opening: Full(opening(*a)))
                with pytest.raises(OSError) as caught:
                    store.save(first | {"step": 2})
            assert caught.value.errno == number and "state.pt" in caught.value.filename
            assert [file.name for file in store.folder.iterdir()] == ["state.pt"]
    assert (store.folder / "state.pt").read_bytes() == kept
    assert store.load()["step"] == 1


def limited(words: list[str], size: int, log: str) -> None:
    """A run whose files may have so many bytes."""
    with open(log, "w", buffering=1) as opened:
        os.dup2(opened.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    os._exit(run(words))


def test_a_limit_of_file_sizes_ends_a_training_in_a_sentence(model, data, tmp_path):
    """The state of step 1 fits, no later one (with the moments of AdamW) does."""
    words = arguments(model, data, tmp_path / "out", *SHORT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tlmtool.commands.finetune", "transformers.models.bert"])
    process = context.Process(target=limited, args=(words, 100_000, str(tmp_path / "log")))
    process.start()
    process.join()
    said = (tmp_path / "log").read_text()
    assert process.exitcode == 1 and "internal error" not in said and said.count("\n") == 1
    assert "state.pt" in said and not (tmp_path / "out").exists()
    assert not [*tmp_path.glob("out.training/*")]
    assert run([*words, "--resume"]) == 0 and weights(tmp_path / "out")
