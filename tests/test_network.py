"""Without a network it is said so, at once and before slow imports; caches and `minilm` stand in
for the Hub, and a network that is only slow is not called none."""

import socket
import subprocess
import sys
import threading

import pytest
import refusals
from front_door import saved

from tlmtool.data import hub
from tlmtool.failure import NotLoadable
from tlmtool.models import finding, known, network
from tlmtool.models.folder import Folder

refused = refusals.refused  # its fixture
dense = refusals.dense
WHY = "huggingface.co: Name or service not known"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No network, and empty caches."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for place in (finding, hub):
        monkeypatch.setattr(place, "unreachable", lambda: WHY)


@pytest.fixture
def endpoint(monkeypatch):
    """A function that sets the address of the Hub, and what is found there."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def found(address: str) -> str:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        return network.unreachable()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return found


@pytest.mark.parametrize("more", [(), ("--revision", "main")])
@pytest.mark.parametrize("name", ["bert-base", "some/model"])
def test_a_model_of_the_hub(alone, refused, name, more):
    sentence = refused(4, name, "--rank", 2, *more)
    assert sentence.startswith(f"tlm: no network: {name}{' at main' if more else ''} is neither")
    assert WHY in sentence and "minilm, smollm2 and gemma3-270m come with pip" in sentence


def test_a_data_set_of_the_hub(alone, refused, dense):
    for data in ("wikitext", "some/data"):
        assert f"no network: {data}" in refused(4, dense, "--rank", 2, "--calibration", data)
    told = refused(4, dense, "--task", "cola", verb="finetune")
    assert "no network: nyu-mll/glue is neither" in told
    told = refused(4, dense, "--teacher", "some/model", verb="finetune")
    assert "no network: some/model" in told


def test_it_is_said_before_the_slow_imports(tmp_path):
    code = (
        "import sys; from tlmtool.models import finding\n"
        f"finding.unreachable = lambda: {WHY!r}\n"
        "from tlmtool.cli import run\n"
        "print(run(['compress', 'some/model', '--rank', '2']), {*sys.modules} & {'torch'})"
    )
    home = {"HF_HOME": str(tmp_path), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home)
    assert ended.stdout == "4 set()\n" and "no network" in ended.stderr, ended.stderr


def test_what_is_cached_needs_no_network(alone, tmp_path):
    home = tmp_path / "hub" / "models--some--model"
    made = saved(home / "snapshots" / ("a" * 40), head="lm")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    assert finding.resolve("some/model") == finding.resolve("some/model", "main") == made
    assert finding.check_reachable("some/model") is None
    (tmp_path / "datasets" / "some___data_set").mkdir(parents=True)
    assert hub.check_reachable("some/DataSet") is None
    with pytest.raises(NotLoadable, match="no network"):
        hub.check_reachable("some/other")


@pytest.mark.parametrize("name", known.AS_MINILM)
def test_minilm_stands_in_for_its_name_on_the_hub(alone, dense, monkeypatch, name):
    monkeypatch.setattr(finding, "minilm", lambda: dense)
    folder = Folder.of(name)
    assert folder.path == dense and f"stands for {name}" in folder.notes[0]
    assert not Folder.of("minilm").notes and not Folder.of(dense).notes
    with pytest.raises(NotLoadable, match="no network"):  # its files are of one revision
        Folder.of(name, "main")
    monkeypatch.setattr(finding, "cached", lambda *_: None)
    with pytest.raises(
        NotLoadable, match=r"the same model is minilm: pip install 'tlmtool\[demo\]'"
    ):
        Folder.of(name)


def test_a_server_that_answers_late_is_reached(endpoint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert endpoint(address) == ""  # it never answers a request, but it is there
    assert "127.0.0.1: Connection refused" in endpoint(address)


def test_a_silent_network_is_given_up_in_time(endpoint, monkeypatch):
    waits = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_: waits.wait() and socket.socket())
    monkeypatch.setenv(network.WAIT, "0.05")
    assert "hub.example: no answer in 0.05 seconds" in endpoint("https://hub.example")
    waits.set()  # until here the connection was still waited for


def test_a_proxy_is_what_has_to_answer(endpoint, monkeypatch):
    asked = []

    def connect(address, _):
        asked.append(address)
        raise OSError("gone")

    monkeypatch.setattr(socket, "create_connection", connect)
    for proxy in ("http://proxy.example:3128", "proxy.example:3128"):
        monkeypatch.setenv("https_proxy", proxy)
        assert endpoint("https://hub.example") == "proxy.example: gone"
    monkeypatch.setenv("no_proxy", "hub.example")
    endpoint("https://hub.example")
    assert asked == [("proxy.example", 3128)] * 2 + [("hub.example", 443)]


def test_the_variable_that_forbids_the_network_is_named(endpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert endpoint("https://hub.example") == "HF_HUB_OFFLINE is set"


def test_offline_ends_with_its_block():
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    with network.offline():
        assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    assert before == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["README.md", "a.Q4_K_M.gguf", "b.gguf"], "`hf download some/model a.Q4_K_M.gguf`"),
        (["config.json", "pytorch_model.bin"], "pickle only (pytorch_model.bin), which can run"),
    ],
)
def test_a_model_of_the_hub_in_another_form(refused, dense, monkeypatch, files, says):
    empty = dense.parent / "empty"
    empty.mkdir(exist_ok=True)
    monkeypatch.setattr(finding, "unreachable", lambda: "")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(empty))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: files)
    assert says in refused(4, "some/model", "--rank", 2)
