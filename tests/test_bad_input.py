"""Bad input: one sentence on stderr, the right exit code, nothing written, never a traceback."""

import errno
import shutil

import pytest
import refusals
from refusals import RANK
from transformers import PreTrainedModel

from tlmtool.cli import run

dense, refused = refusals.dense, refusals.refused  # its fixtures


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--rank 0", "--rank must be an integer of at least 1, got 0"),
        ("--rank -1", "--rank must be an integer of at least 1, got -1"),
        ("--rank eight", "--rank must be an integer of at least 1, got 'eight'"),
        ("--rank 1000000000", "rank 1000000000 is above 32, the full rank of a weight (4, 8, 32)"),
        ("--rank 32", "no site would get smaller at this budget: btd at rank 32"),
        ("--keep 0", "--keep must be a number above 0 and below 1, got 0"),
        ("--keep 1.5", "--keep must be a number above 0 and below 1, got 1.5"),
        ("--keep 0.001", "keep more, or name fewer sites"),
        ("--energy 1", "no site would get smaller"),
        ("--rank 2 --keep 0.5", "--rank and --keep exclude each other"),
        ("--rank 2 --method auto", "--method auto needs a budget"),
        (
            "--rank 2 --sites encoder.layer.9.*",
            "no site matches 'encoder.layer.9.*' in BertForMaskedLM; name attent",
        ),
        ("--rank 2 --ignore *", "--ignore takes all that --sites names"),
        ("--rank 2 --device tpu", "device tpu cannot be used here"),
        ("--rank 2 --device meta", "device meta"),
        ("", "compress needs one budget"),
    ],
)
def test_flags(refused, dense, flags, says):
    assert says in refused(2, dense, "--calibration", "none", *flags.split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty: it should hold one text a line"),
        (b" \n\n", "is empty"),
        (b"word", "holds one word ('word'): two or more are needed"),
        (b"the cat\0", "is binary"),
        (bytes(range(128, 256)), "is not UTF-8 text"),
        (None, "does not exist"),
    ],
)
def test_calibration_files(refused, dense, tmp_path, text, says):
    if text is not None:
        (tmp_path / "t.txt").write_bytes(text)
    assert says in refused(4, dense, "--rank", 2, "--calibration", tmp_path / "t.txt")
    (tmp_path / "folder").mkdir()
    text = ("--calibration", tmp_path / "folder")
    assert "is a directory" in refused(4, dense, "--rank", 2, *text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("compression: {rnk: 2}", "did you mean compression.rank?"),
        ("compresion: {rank: 2}", "did you mean compression?"),
        ("!!python/object/apply:os.system [touch tagged]", "YAML tags such as"),
        ("compression: {rank: !!int 2}", "YAML tags such as"),
        ("verb: merge", "is for the verb 'merge', not for compress"),
        ("compression: {overrides: [{sites: x*, rank: 3}]}", "'x*' matches none of the sites"),
    ],
)
def test_recipes(refused, dense, tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text)
    assert says in refused(2, dense, "--recipe", tmp_path / "r.yaml", *RANK)


def test_out(refused, dense, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    taken, full = ("--out", tmp_path / "file"), ("--out", tmp_path / "full")
    assert "is a file, not a folder" in refused(2, dense, *RANK, *taken)
    assert "is a file, not a folder" in refused(2, dense, *RANK, *taken, "--overwrite")
    assert "is not empty; give --overwrite" in refused(2, dense, *RANK, *full)
    assert "holds no checkpoint" in refused(2, dense, *RANK, *full, "--overwrite")
    below = ("--out", tmp_path / "file" / "deep" / "er")
    assert f"{tmp_path / 'file'} is no folder" in refused(2, dense, *RANK, *below)


def write_then_fail(patch, error):
    """The disk takes the weights, and no more."""
    real = PreTrainedModel.save_pretrained

    def save_pretrained(self, folder, **kwargs):
        real(self, folder, **kwargs)
        raise error

    patch.setattr(PreTrainedModel, "save_pretrained", save_pretrained)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "w.safetensors"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "w"), "w: Permission denied"),
    ],
)
def test_a_failing_write_leaves_what_was_there(dense, tmp_path, monkeypatch, capsys, error, says):
    """What was there, and the finished layers, from which `--resume` goes on."""
    old = shutil.copytree(dense, tmp_path / "old")
    kept = {f.name: f.read_bytes() for f in old.iterdir()}
    write_then_fail(monkeypatch, error)
    given = ("compress", dense, *RANK, "--out", old, "--overwrite", "-q")
    assert run([*map(str, given)]) == 1
    assert says in capsys.readouterr().err
    assert {f.name: f.read_bytes() for f in old.iterdir()} == kept
    assert sorted(tmp_path.iterdir()) == [old, tmp_path / "old.compressing"]


def test_a_failing_write_leaves_no_folder_and_the_next_run_makes_it(dense, tmp_path, capsys):
    given = ("compress", dense, *RANK, "--out", tmp_path / "o", "-q")
    with pytest.MonkeyPatch.context() as patch:
        write_then_fail(patch, OSError(errno.ENOSPC, "No space left on device"))
        assert run([*map(str, given)]) == 1
    assert "layers are done: go on with" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [tmp_path / "o.compressing"]
    assert run([*map(str, given), "--resume"]) == 0
    (tmp_path / "o" / "report.json").unlink()
    assert run([*map(str, given), "--overwrite"]) == 0
    assert (tmp_path / "o" / "report.json").exists()
    assert [*tmp_path.iterdir()] == [tmp_path / "o"]
