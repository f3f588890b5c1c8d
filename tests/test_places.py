"""No `--out` is, contains or lies inside what its run reads, in any verb, and none is where no
folder can be put."""

import json
import os
import random
import shutil

import pytest
import yaml
from conftest import WORDS, pico, word_tokenizer

import tlmtool
from tlmtool.cli import run
from tlmtool.failure import Usage
from tlmtool.files import places
from tlmtool.files.places import check_apart, check_place, path_of, related


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with `run/checkpoint-5` and `run/config.json`, as a Trainer leaves them, a teacher,
    texts and a recipe; the working directory lies beside them."""
    (tmp_path / "here").mkdir()
    (tmp_path / "run").mkdir()
    for name in ("run/checkpoint-5", "teacher"):
        pico("bert", "lm").save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "run" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "texts").mkdir()
    draw = random.Random(0)
    lines = "\n".join(" ".join(draw.choices(WORDS, k=6)) for _ in range(12))
    (tmp_path / "texts" / "train.txt").write_text(lines)
    (tmp_path / "texts" / "dev.txt").write_text(lines)
    (tmp_path / "texts" / "r.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def tree(folder):
    return {p: p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


def refused(room, capsys, *words):
    """The sentence of a run that ends in 2 before it has loaded or written anything."""
    before = tree(room)
    assert run([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tlm: ") and told.count("\n") == 1
    assert tree(room) == before
    return told


COMPRESS = ("compress", "../run/checkpoint-5", "--rank", 2, "--calibration", "none")
TRAIN = ("finetune", "../run/checkpoint-5", "--task", "mlm", "--data", "../texts", "--steps", 1)
VERBS = {  # what is read beside MODEL, and where it lies
    "compress": (COMPRESS, "MODEL"),
    "merge": (("merge", "../run/checkpoint-5"), "MODEL"),
    "overparam": (("overparam", "../run/checkpoint-5", "--growth", 2), "MODEL"),
    "finetune": (TRAIN, "MODEL"),
    "study": ((*TRAIN, "--seeds", 1), "MODEL"),
}
READ = {
    "--data": (TRAIN, "../texts"),
    "study --data": ((*TRAIN, "--seeds", 1), "../texts"),
    "--calibration": ((*COMPRESS[:-1], "../texts/train.txt"), "../texts/train.txt"),
    "--recover's --data": ((*COMPRESS, "--recover", 1, "--data", "../texts"), "../texts"),
    "--teacher": ((*TRAIN[:2], *TRAIN[4:], "--teacher", "../teacher"), "../teacher"),
    "the recipe": ((*COMPRESS, "--recipe", "../texts/r.yaml"), "../texts/r.yaml"),
    "--from-config": (
        ("finetune", "--from-config", "../teacher/config.json", *TRAIN[2:]),
        "../teacher/config.json",
    ),
}


@pytest.mark.parametrize("way", ["is", "contains", "lies inside"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_replaces_its_model(room, capsys, monkeypatch, verb, way):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", pytest.fail)
    out = {
        "is": "../run/checkpoint-5/",
        "contains": "../run",
        "lies inside": "../run/checkpoint-5/new/deep",
    }[way]
    told = refused(room, capsys, *VERBS[verb][0], "--out", out, "--overwrite")
    assert f"{way} MODEL" in told and "give another --out" in told


@pytest.mark.parametrize("what", READ)
def test_no_verb_replaces_what_else_it_reads(room, capsys, what):
    words, place = READ[what]
    folder = os.path.dirname(place) if "." in os.path.basename(place) else place
    (room / folder.removeprefix("../") / "config.json").write_text('{"model_type": "bert"}')
    for out in (folder, *([f"{folder}/new"] if folder == place else [])):
        told = refused(room, capsys, *words, "--out", out, "--overwrite")
        assert "give another --out" in told and "which is read" in told


def test_links_are_followed_on_both_sides(room, capsys):
    (room / "link").symlink_to(room / "run")
    (room / "again").symlink_to(room / "link")
    for out in ("../link", "../again", "../link/checkpoint-5", "../again/checkpoint-5/x"):
        refused(room, capsys, *COMPRESS, "--out", out, "--overwrite")
    (room / "model").symlink_to(room / "run" / "checkpoint-5")
    linked = ("compress", "../model", *COMPRESS[2:])
    assert "contains MODEL" in refused(room, capsys, *linked, "--out", "../run", "--overwrite")
    (room / "apart").mkdir()  # its files are links to those of a folder that would be replaced
    for file in (room / "teacher").iterdir():
        (room / "apart" / file.name).symlink_to(file)
    words = ("compress", "../apart", *COMPRESS[2:], "--out", "../teacher", "--overwrite")
    assert "contains files of MODEL" in refused(room, capsys, *words)


def test_the_working_directory_is_no_output_and_what_lies_in_it_is(room, capsys):
    for out in (".", "./", "..", "../here", "x/..", os.sep, "~"):
        if out == "~":
            os.environ["HOME"] = str(room)
        told = refused(room, capsys, *COMPRESS, "--out", out, "--overwrite")
        assert "the working directory" in told or "MODEL" in told
    assert run([str(word) for word in (*COMPRESS, "--out", "deep/../o", "-q")]) == 0
    assert os.listdir() == ["o"]  # and no folder `deep`


def test_a_pipeline_keeps_clear_of_what_its_stages_read(room, capsys):
    stage = {"name": "small", "verb": "compress", "model": "../teacher"}
    stage |= {"compression": {"rank": 2}, "calibration": {"text": "none"}}
    scored = {"name": "score", "verb": "evaluate"}
    scored |= {"evaluation": {"task": "mlm", "data": str(room / "texts" / "dev.txt")}}
    (room / "p").mkdir()
    file = room / "p" / "p.yaml"
    file.write_text(yaml.safe_dump({"stages": [stage, scored]}))
    for out in ("../teacher", "../texts", "../p", "..", ".", "../teacher/new"):
        told = refused(room, capsys, "run", file, "--out", out, "--overwrite")
        assert "--out" in told
    words = ["run", str(file), "--out", "o", "-q"]
    assert run(words) == 0 and run([*words, "--resume"]) == 0
    assert run([*words, "--overwrite"]) == 0  # its second stage reads what the first writes into it
    assert sorted(os.listdir()) == ["o"]
    assert sorted(os.listdir("o")) == ["page.html", "report.json", "score", "small", "stages.json"]


def test_a_pipeline_replaces_nothing_of_others_in_its_stages(room, capsys):
    stage = {"name": "small", "verb": "compress", "model": "../teacher"}
    stage |= {"compression": {"rank": 2}, "calibration": {"text": "none"}}
    profile = {"name": "cost", "verb": "profile", "profiling": {"seq_len": [8]}}
    file = room / "p.yaml"
    file.write_text(yaml.safe_dump({"stages": [stage, profile]}))
    words = ["run", str(file), "--out", "o", "-q"]
    assert run(words) == 0
    for name, more in (("small", ["--overwrite"]), ("cost", ["--overwrite"]), ("cost", [])):
        note = room / "here" / "o" / name / "thesis.md"
        note.write_text("all of it")
        if not more:
            (note.parent / "report.json").unlink()
        told = refused(room, capsys, *words, *(more or ["--resume"]))
        assert "thesis.md" in told
        note.unlink()


def test_save_from_python_knows_its_source(room):
    model = tlmtool.load(room / "teacher")
    for out in (room / "teacher" / "new", room):
        with pytest.raises(Usage, match=r"which is read|working directory"):
            tlmtool.save(model, out, source=room / "teacher", overwrite=True)
    with pytest.raises(Usage, match="which is read"):
        tlmtool.save(model, room / "teacher", source=room / "teacher")


def test_a_folder_may_replace_itself(room):
    """All of it is written beside it, with the files that it held beside the weights."""
    own = shutil.copytree(room / "teacher", room / "own")
    names = {each.name for each in own.iterdir()}
    tlmtool.save(tlmtool.load(own), own, source=own, overwrite=True)
    assert {each.name for each in own.iterdir()} == names - {"report.json", "recipe.yaml"}


def test_a_mount_point_is_refused_before_any_work(room, capsys, monkeypatch):
    (room / "out put").mkdir()
    listed = room / "mountinfo"
    line = f"9 1 0:5 / {room}/out\\040put rw - tmpfs tmpfs rw\n"
    listed.write_text(line)
    monkeypatch.setattr(places, "MOUNTS", listed)
    for words in (COMPRESS, TRAIN, (*TRAIN, "--seeds", 1)):
        told = refused(room, capsys, *words, "--out", "../out put")
        assert "is a mount point" in told and "out put/model" in told
    with pytest.raises(Usage, match="is a mount point"):
        tlmtool.save(pico("bert"), room / "out put")
    tlmtool.save(pico("bert"), room / "out put" / "model")


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("x" * 255, "is too long"),
        ("/".join(["y" * 200] * 30), "is too long"),
        ("~nobody-of-this-name/x", "cannot be the name of a file"),
        ("circle", "leads in a circle"),
        ("circle/x", "is no folder that can be written to"),
        ("file/x", "is no folder that can be written to"),
        ("pipe", "is a file, not a folder"),
    ],
)
def test_odd_names_are_one_sentence(room, capsys, out, says):
    (room / "here" / "circle").symlink_to("circle")
    (room / "here" / "file").write_text("mine")
    os.mkfifo(room / "here" / "pipe")
    before = sorted(room.rglob("*"))
    assert run([*map(str, COMPRESS), "--out", out, "-q"]) == 2
    assert says in capsys.readouterr().err
    assert sorted(room.rglob("*")) == before
    for name in ("a\0b", "\ud800"):
        with pytest.raises(Usage, match="cannot be the name"):
            path_of(name)


def test_what_is_apart_is_let_through(room):
    """Siblings, also those whose names begin alike, and a folder beside a file that is read."""
    read = [("MODEL", room / "teacher"), ("--data", room / "texts" / "train.txt")]
    for out in ("teacher2", "teach", "texts/new", "new/teacher", "run"):
        check_place(room / out, read)
        check_apart(room / out, read)
    assert related(room / "texts", room / "texts" / "train.txt") == "contains"
    assert related(room / "texts" / "x", room / "texts") == "lies inside"
    assert related(room / "x", room / "nowhere") == ""


def test_two_names_of_one_folder_are_one(room, monkeypatch):
    """As a bind mount gives them, which no resolving of links finds."""
    same = {str(room / "bound"), str(room / "run")}
    (room / "bound").mkdir()
    real = os.path.samefile
    monkeypatch.setattr(os.path, "samefile", lambda a, b: {str(a), str(b)} <= same or real(a, b))
    assert related(room / "bound", room / "run" / "checkpoint-5") == "contains"
    assert related(room / "bound" / "new", room / "run") == "lies inside"


def test_a_dry_run_and_the_report_name_the_out_as_given(room, capsys):
    (room / "disk").mkdir()
    (room / "here" / "link").symlink_to(room / "disk")
    words = [*map(str, COMPRESS), "--out", "link", "-q", "--json"]
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["model"]["out"] == "link"
    assert (room / "here" / "link").is_symlink() and (room / "disk" / "config.json").exists()
    assert sorted(os.listdir(room / "here")) == ["link"]
    assert run([*words, "--overwrite"]) == 0
    assert (room / "here" / "link").is_symlink()
    assert {"disk", "here"} <= set(os.listdir(room)) and not list(room.glob(".*"))
