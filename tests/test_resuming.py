"""Resuming: from the same files and an unbroken state alone; a finished run is done; what others
changed of what a run keeps, and a disk that is full, are one sentence."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
from pathlib import Path

import pytest
import test_finetune
import torch
from conftest import WORDS, pico, word_tokenizer
from test_finetune import arguments, weights

from tlmtool.cli import run
from tlmtool.data.fingerprints import sums_of
from tlmtool.recipe.building import build
from tlmtool.training import state
from tlmtool.training.loop import Trainer

model, data = test_finetune.model, test_finetune.data  # its fixtures
SHORT = ["--steps", 4, "--save-every", 1, "--batch", 4]
ODD = [None, 1, "x", [], {}, [1], {"a": 1}, float("inf"), True, "../../x"]
GONE = object()
OUTCOMES = (0, 2, 4)


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Runs of finetune that end before the given step."""
    learn, stops = Trainer.learn, []

    def stopping(self, *args):
        if self.step in stops:
            raise KeyboardInterrupt
        return learn(self, *args)

    monkeypatch.setattr(Trainer, "learn", stopping)

    def call(words: list[str], step: int) -> None:
        stops[:] = [step]
        assert run(words) == 130
        stops.clear()
        capsys.readouterr()

    return call


def interrupted(*_) -> None:
    raise KeyboardInterrupt


def sentence(capsys) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "internal error" not in said and "Traceback" not in said, said
    return said


def sealed(file: Path, kept: dict) -> None:
    """A state with a right sum, as one who knows the form could make it."""
    torch.save(kept, file)
    whole = file.read_bytes()
    file.write_bytes(whole + state.SUM + hashlib.sha256(whole).hexdigest().encode())


def changes(tree: dict, draw: random.Random, count: int):
    """(keys, value) of a seeded part of all ways to change one value of nested dicts and lists."""
    places = []

    def walk(node, keys):
        for key in node if isinstance(node, dict) else range(min(1, len(node))):
            places.append((*keys, key))
            if isinstance(node[key], dict | list) and len(keys) < 4:
                walk(node[key], (*keys, key))

    walk(tree, ())
    ways = [(keys, value) for keys in places for value in (*ODD, GONE)]
    return draw.sample(ways, min(count, len(ways)))


def put(tree, keys, value):
    """A copy with one value changed, or gone."""
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(keys) > 1:
        copy[keys[0]] = put(tree[keys[0]], keys[1:], value)
    elif value is GONE:
        del copy[keys[0]]
    else:
        copy[keys[0]] = value
    return copy


# ---- the same files


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


@pytest.fixture
def pipeline(model, tmp_path) -> list[str]:
    """The words of a small pipeline that reads a text."""
    pico("bert", "lm").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    stages = [
        {"name": "a", "verb": "compress", "model": str(tmp_path / "model")}
        | {"compression": {"rank": 2}, "calibration": {"text": "none"}},
        {"name": "b", "verb": "evaluate", "evaluation": {"task": "mlm", "data": str(text)}},
    ]
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": stages}))
    return ["run", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out"), "-q"]


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


# ---- a finished run


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


# ---- an unbroken state


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


# ---- what others changed


def test_a_state_of_any_content_is_gone_on_with_or_refused(
    model, data, tmp_path, capsys, stopped, monkeypatch
):
    out = tmp_path / "out"
    words = arguments(model, data, out, *SHORT, "--strategy", "dynamic", "--every", "2")
    words += ["--N", "1", "--n", "1", "--growth", "2", "--evaluate-every", "1"]
    stopped(words, 3)
    file = tmp_path / "out.training" / "state.pt"
    kept, whole = torch.load(file, weights_only=True), file.read_bytes()
    monkeypatch.setattr(Trainer, "evaluate", lambda self: False)
    parts = kept | {"state": kept["state"] | {"model": {}, "optimizer": {}}}
    ways = [*changes(parts, random.Random(0), 14)]
    ways += [(("state", key), 1) for key in kept["state"]]
    ways += [(("state", "outcome", key), "x") for key in kept["state"]["outcome"]]
    ways += [(("state", "optimizer", key), {}) for key in kept["state"]["optimizer"]]
    for keys, value in ways:
        sealed(file, put(kept, keys, value))
        code = run([*words, "--resume"])
        assert code in OUTCOMES, (keys, value)
        if code:
            sentence(capsys)
        else:
            shutil.rmtree(out)
            file.parent.mkdir()
        capsys.readouterr()
    file.write_bytes(whole)
    assert run([*words, "--resume"]) == 0


def test_a_study_of_any_content_is_gone_on_with_or_refused(model, data, tmp_path, capsys):
    out = tmp_path / "study"
    words = arguments(model, data, out, "--steps", 4, "--every", 2, "--N", 1, "--n", 1)
    words += ["--growth", "2", "--seeds", "1", "--arms", "mpo-dynamic,frozen"]
    assert run(words) == 0
    draw, codes = random.Random(0), []
    for name in ("study.json", "mpo-dynamic-seed0.json"):
        whole = (out / name).read_text()
        for keys, value in [*changes(json.loads(whole), draw, 24), (("chosen",), ["../../x"])]:
            (out / name).write_text(json.dumps(put(json.loads(whole), keys, value)))
            (out / "frozen-seed0.json").unlink() if keys == ("chosen",) else None
            capsys.readouterr()
            codes.append(run([*words, "--resume"]))
            assert codes[-1] in OUTCOMES, (name, keys, value)
            if codes[-1]:
                sentence(capsys)
        for text in ("", "[" * 99999, "[1]", "NaN", '"x"', "\0"):
            (out / name).write_text(text)
            capsys.readouterr()
            assert run([*words, "--resume"]) in (2, 4), (name, text)
            assert name in sentence(capsys) or name == "study.json"
        (out / name).write_text(whole)
    assert {2, 4} <= {*codes}
    assert run([*words, "--resume"]) == 0


def test_a_pipeline_of_any_content_is_gone_on_with_or_refused(pipeline, tmp_path, capsys):
    assert run(pipeline) == 0
    draw, codes = random.Random(0), set()
    for name in ("stages.json", "a/report.json", "b/report.json"):
        file = tmp_path / "out" / name
        whole = file.read_text()
        texts = [
            json.dumps(put(json.loads(whole), keys, value))
            for keys, value in changes(json.loads(whole), draw, 48)
        ]
        texts += ["", "[" * 99999, "[]", "1e999", '{"sites": 5, "parameters": "x"}', "\0"]
        texts += [json.dumps({"../../x": {}} | json.loads(whole)), json.dumps({"verb": "merge"})]
        for text in texts:
            file.write_text(text)
            capsys.readouterr()
            codes.add(code := run([*pipeline, "--resume"]))
            said = capsys.readouterr().err
            assert code in OUTCOMES and "internal error" not in said, text
            assert said.count("\n") == bool(code), said
        file.write_text(whole)
    assert codes == {0, 2, 4}
    assert run([*pipeline, "--resume"]) == 0


def test_a_finished_report_of_any_content_is_shown_or_refused(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = arguments(model, data, out, *SHORT)
    assert run(words) == 0
    whole = json.loads((out / "report.json").read_text())
    for keys, value in changes(whole, random.Random(0), 120):
        (out / "report.json").write_text(json.dumps(put(whole, keys, value)))
        capsys.readouterr()
        code = run([*words, "--resume", "--fail-if", "score<-1"])
        said = capsys.readouterr().err
        assert code in OUTCOMES and "internal error" not in said, (keys, value)
        assert said.count("\n") <= 2, said


# ---- no room


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
