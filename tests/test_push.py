"""`tlm push`: what would travel, where to, and one sentence for whatever stops it."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from conftest import pico, word_tokenizer
from factored import compressed
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

from tlmtool.cli import run
from tlmtool.commands import push


def answer(kind: type, status: int) -> Exception:
    """What the Hub's client raises on an answer of the Hub."""
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} from the Hub\nmore", response=response)


class Hub:
    """Stands for the Hub's client, up to the network. `models`: {id: whether it is private}."""

    endpoint = "https://hub.invalid"

    def __init__(self):
        self.models, self.early, self.commits, self.fails = {}, [], [], None

    def model_info(self, repo):
        if repo not in self.models:
            raise answer(RepositoryNotFoundError, 404)
        return SimpleNamespace(private=self.models[repo])

    def create_repo(self, repo, private, exist_ok):
        self.models[repo] = private

    def preupload_lfs_files(self, repo, additions):
        self.early += [each.path_in_repo for each in additions]

    def create_commit(self, repo, operations, commit_message):
        if self.fails:
            raise self.fails
        self.commits.append({each.path_in_repo for each in operations})


@pytest.fixture
def hub(monkeypatch):
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: made)
    monkeypatch.setattr(push, "unreachable", lambda: "")
    return made


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of ours, with a hidden file beside it."""
    made = tmp_path / "m8"
    compressed("bert", "lm").save_pretrained(made)
    word_tokenizer().save_pretrained(made)
    (made / ".cache").mkdir()
    (made / ".cache" / "secret").write_text("x")
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text("{}")
    return made


def files_of(folder):
    paths = (f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix() for f in paths} - {".cache/secret"}


def tlm(*args):
    return run(["push", *map(str, args)])


def test_a_dry_run_lists_files_and_sizes_and_asks_nobody(folder, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: pytest.fail("asked for a token"))
    assert tlm(folder, "me/m8", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"].keys() == files_of(folder) and found["private"] and not found["url"]
    assert found["bytes"] == sum((folder / name).stat().st_size for name in found["files"])
    assert found["schema_version"] and found["dry_run"]
    assert tlm(folder, "me/m8", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in files_of(folder)) and "nothing was uploaded" in shown


@pytest.mark.parametrize("flags", [[], ["--private"], ["--public"]])
def test_a_new_model_is_private_unless_told(flags, folder, hub, capsys):
    assert tlm(folder, "me/m8", *flags) == 0
    assert hub.models == {"me/m8": "--public" not in flags}
    assert hub.commits == [files_of(folder)] and set(hub.early) == files_of(folder)
    told = capsys.readouterr()
    assert "https://hub.invalid/me/m8, " + ("public" if "--public" in flags else "private") in (
        told.out
    )
    assert "uploading model.safetensors" in told.err and "hf_secret" not in told.out + told.err


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("flags", [[], ["--public"]])
def test_a_model_that_exists_keeps_its_visibility(held, flags, folder, hub, capsys):
    hub.models["me/m8"] = held
    refused = not held and not flags
    assert tlm(folder, "me/m8", *flags) == (2 if refused else 0)
    assert hub.models == {"me/m8": held} and len(hub.commits) == (0 if refused else 1)
    told = capsys.readouterr()
    assert ("is public: give --public" in told.err) == refused
    assert ("is private, and stays so" in told.err) == (held and bool(flags))


def one_sentence(capsys, says):
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if not line.startswith("uploading")]
    assert out == "" and len(said) == 1 and said[0].startswith("tlm: ") and says in said[0], err


def test_without_a_token_or_a_network(folder, hub, capsys, monkeypatch):
    monkeypatch.setattr(push, "unreachable", lambda: "hub.invalid: no answer")
    assert tlm(folder, "me/m8") == 1
    one_sentence(capsys, "no network: nothing was uploaded to me/m8")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert tlm(folder, "me/m8") == 1
    one_sentence(capsys, "run `hf auth login`, or set HF_TOKEN")
    assert not hub.commits


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (answer(HfHubHTTPError, 401), "the token is not valid"),
        (answer(HfHubHTTPError, 403), "the token may not write there"),
        (answer(HfHubHTTPError, 500), "the Hub refused the upload to me/m8: 500 from the Hub"),
        (HTTPError("it is gone"), "the upload to me/m8 failed: it is gone"),
    ],
)
def test_what_the_hub_refuses(error, says, folder, hub, capsys):
    hub.fails = error
    assert tlm(folder, "me/m8") == 1
    one_sentence(capsys, says)


@pytest.mark.parametrize(
    ("name", "repo", "code", "says"),
    [
        ("nowhere", "me/m8", 4, "is no folder: give the folder of a checkpoint"),
        (".", "me/m8", 4, "has no config.json, so it is no model checkpoint"),
        ("m8", "m8", 2, "give it as NAME/m8"),
        ("m8", "me/m 8", 2, "is no id of the Hub"),
        ("m8", "a/b/c", 2, "is no id of the Hub"),
    ],
)
def test_wrong_folders_and_ids(name, repo, code, says, folder, hub, capsys):
    assert tlm(folder.parent / name, repo) == code
    one_sentence(capsys, says)
    assert not hub.models


def test_contradictory_flags_and_links_are_refused(folder, hub, tmp_path, capsys):
    assert tlm(folder, "me/m8", "--private", "--public") == 2
    one_sentence(capsys, "contradict each other")
    (tmp_path / "secret").write_text("x")
    (folder / "notes").symlink_to(tmp_path / "secret")
    assert tlm(folder, "me/m8") == 2
    one_sentence(capsys, "is a link out of the folder")
    assert not hub.models


def test_a_plain_checkpoint_travels_too(tmp_path, hub):
    pico("bert").save_pretrained(tmp_path / "plain")
    assert tlm(tmp_path / "plain", "me/plain") == 0
    assert hub.commits == [files_of(tmp_path / "plain")]
