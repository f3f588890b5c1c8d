"""An `--out` that is the folder behind `minilm`, an alias or a Hub id is refused at the start."""

from pathlib import Path

import pytest
from front_door import saved

from tlmtool.cli import run
from tlmtool.models import checkpoint, finding
from tlmtool.models.architectures import ALIASES

REVISION = "a" * 40
NAMES = ("minilm", "bert-base", "some/model")


@pytest.fixture
def dense(tmp_path, monkeypatch) -> Path:
    """A checkpoint in a cache of the Hub, behind each of the names."""
    for name in NAMES:
        home = tmp_path / "cache" / f"models--{ALIASES.get(name, name).replace('/', '--')}"
        saved(home / "snapshots" / REVISION, head="lm")
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(finding, "minilm", lambda: finding.cached("minilm/minilm"))
    (tmp_path / "cache" / "models--minilm").rename(tmp_path / "cache" / "models--minilm--minilm")
    monkeypatch.chdir(tmp_path)
    return saved(tmp_path / "dense", head="lm")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["MODEL", "--teacher"])
def test_the_folder_behind_a_name_is_kept(dense, capsys, monkeypatch, name, what):
    folder = finding.resolve(name) if name == "minilm" else finding.cached(name)
    for read in ("load", "empty", "load_tokenizer"):
        monkeypatch.setattr(checkpoint, read, lambda *_, **__: pytest.fail("is read"))
    if what == "MODEL":
        words = ["compress", name, "--rank", "2"]
    else:
        words = ["finetune", str(dense), "--teacher", name, "--steps", "1"]
    for out, how in ((folder, "is"), (folder.parent, "contains")):
        assert run([*words, "--out", str(out), "--overwrite"]) == 2
        told = capsys.readouterr().err
        assert f"--out {out} {how} {what} {name} in {folder}, which is read" in told
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in dense.iterdir())


def test_a_name_that_is_not_on_this_machine_is_not_looked_for_on_the_hub(dense, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the Hub"))
    assert finding.cached("other/model") is finding.cached("a/b/c") is None
    assert finding.cached("some/model", "b" * 40) is None
    assert finding.cached("some/model", REVISION) == finding.cached("some/model")
