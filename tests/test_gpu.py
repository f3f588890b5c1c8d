"""On a GPU every command gives what it gives on the CPU: factors, merged weights, runs, scores.

TLM_TEST_DEVICE=cpu runs the same tests without one, to check the tests themselves.
"""

from pathlib import Path

import pytest
import torch
from conftest import DEVICE, apart, auto, inputs, pico, sentences
from front_door import report_of, same_weights, saved, tensors, tlm, told
from torch import Tensor

from tlmtool.decompositions import NAMES, named
from tlmtool.measuring.counting import example_of
from tlmtool.models.checkpoint import load
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, plan_of, sites
from tlmtool.training.loop import Trainer

pytestmark = pytest.mark.gpu
ALONE = [name for name in NAMES if named(name).alone]


@pytest.fixture
def deterministic(monkeypatch):
    """No GPU kernel that adds in any order: equal runs give equal bits."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A checkpoint with a language-model head, texts, and texts with labels."""
    folder = tmp_path_factory.mktemp("gpu")
    saved(folder / "model", head="lm")
    lines = sentences(120)
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    (folder / "labels").mkdir()
    for name, some in (("train", lines[:96]), ("dev", lines[96:])):
        rows = [f"{line}\t{int('cat' in line)}" for line in some]
        (folder / f"labels/{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def both(folder: Path, *words) -> tuple[Path, Path]:
    """What a command writes on the device under test, and what it writes on the CPU."""
    found, expected = folder / "found", folder / "expected"
    for out, device in ((found, DEVICE), (expected, "cpu")):
        assert tlm(*words, "--device", device, "--out", out, "-q") == 0
    return found, expected


@torch.no_grad()
def output(model) -> Tensor:
    return model(**{name: x.to(model.device) for name, x in inputs(model).items()})[0]


def dense(folder: Path) -> dict[str, Tensor]:
    """{site: the weight that its factors stand for, float64}"""
    model = load(folder)
    base = model.base_model
    return {
        site: held.reconstruct({k: f.double() for k, f in base.get_submodule(site).factors.items()})
        for site, held in plan_of(model).items()
    }


# ---- checkpoints


@pytest.mark.parametrize("method", ALONE)
def test_compress_gives_the_factors_of_the_cpu(room, method, tmp_path):
    words = ["compress", room / "model", "--rank", 3, "--method", method, "--calibration", "none"]
    folders = both(tmp_path, *words)
    here, there = map(dense, folders)
    assert here.keys() == there.keys() and here
    for site, weight in there.items():
        assert apart(here[site], weight) < 1e-4, site
    found = report_of(folders[0])
    if DEVICE != "cpu":  # there it is the memory of the process, which may have been free
        assert found["peak_memory_bytes"] >= 4 * found["parameters"]["before"]
        assert found["peak_memory_kind"] == "cuda" and found["peak_rss_bytes"] > 0


def test_text_weighs_errors_as_on_the_cpu(room, tmp_path):
    """Fitted to hidden states of float32, whose rounding differs."""
    words = ["compress", room / "model", "--keep", 0.5, "--method", "svd"]
    folders = both(tmp_path, *words, "--calibration", room / "texts.txt")
    here, there = map(report_of, folders)
    assert here["parameters"] == there["parameters"]
    assert here["quality"]["after"] == pytest.approx(there["quality"]["after"], rel=1e-3)
    for mine, other in zip(here["sites"], there["sites"], strict=True):
        assert mine["site"] == other["site"]
        for key in ("weight_error", "output_error"):
            assert mine[key] == pytest.approx(other[key], rel=1e-2, abs=1e-5), mine["site"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ALONE)
def test_what_is_saved_re_loads_exactly(method, dtype, tmp_path):
    model = pico("gpt2", "lm").to(DEVICE, dtype)
    chosen = [site for site, role in sites(model).items() if role != "embedding"]
    factorize(model, dict.fromkeys(chosen, named(method)(3)))
    adopt(model).eval().save_pretrained(tmp_path)
    ours = load(tmp_path, device=DEVICE).eval()
    theirs = auto("gpt2", "lm").from_pretrained(tmp_path, dtype=dtype).to(DEVICE).eval()
    for again in (ours, theirs):
        assert again.device.type == model.device.type and again.dtype == dtype
        kept = again.state_dict()
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
        assert torch.equal(output(again), output(model))


def test_merging_computes_the_same(room, tmp_path):
    kept = tmp_path / "kept"
    words = ["compress", room / "model", "--rank", 3, "--calibration", "none"]
    assert tlm(*words, "--device", DEVICE, "--out", kept, "-q") == 0
    folders = both(tmp_path, "merge", kept)
    assert all(report_of(folder)["parity"]["relative"] <= 1e-5 for folder in folders)
    here, there = map(tensors, folders)
    assert all(apart(here[name], value) < 1e-6 for name, value in there.items())


# ---- training and scores


def training(room: Path) -> list:
    words = ["finetune", room / "model", "--task", "classification", "--data", room / "labels"]
    words += ["--steps", 12, "--batch", 8, "--lr", 1e-3, "--max-length", 16]
    return [*words, "--strategy", "dynamic", "--N", 2, "--n", 1, "--every", 3, "--growth", 2]


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_stopped_run_goes_on_to_the_same_weights(room, precision, tmp_path, monkeypatch):
    learn = Trainer.learn
    words = [*training(room), "--device", DEVICE, "--precision", precision, "--save-every", 1, "-q"]
    assert tlm(*words, "--out", tmp_path / "whole") == 0

    def stopping(self, *args):
        if self.step == 8:
            raise KeyboardInterrupt
        return learn(self, *args)

    words += ["--out", tmp_path / "again", "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "learn", stopping)
        assert tlm(*words) == 130
    assert tlm(*words) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "again")
    found = report_of(tmp_path / "again")
    assert found["parity"]["relative"] <= 1e-5 and found["expansions"]
    assert all(min(each["first_update"].values()) > 0 for each in found["expansions"])


def test_training_follows_the_cpu(room, tmp_path):
    folders = both(tmp_path, *training(room), "--dropout", 0, "--evaluate-every", 3)
    here, there = map(report_of, folders)
    assert [s["chosen"] for s in here["selections"]] == [s["chosen"] for s in there["selections"]]
    losses = [[row["loss"] for row in each["training"]["history"]] for each in (here, there)]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_evaluate_gives_the_score_of_the_cpu(room, capsys):
    scores = []
    for device in (DEVICE, "cpu"):
        words = ["evaluate", room / "model", "--task", "mlm", "--data", room / "texts.txt"]
        scores.append(told(capsys, *words, "--device", device)["models"][0]["score"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_peak_memory_is_what_torch_allots_on_the_gpu(room, capsys):
    words = ["profile", room / "model", "--batch", 16, "--seq-len", 64, "--latency"]
    (found,) = told(capsys, *words, "--device", DEVICE)["models"][0]["runs"]
    assert found["latency_ms"]["median"] > 0 and found["flops"] > 0
    if DEVICE == "cpu":
        pytest.skip("resident memory of a process, on a CPU")
    model = load(room / "model", device=DEVICE).eval()
    example = example_of(model, 64, 16)
    with torch.no_grad():
        model(**example)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(**example)
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak > 0 and found["peak_memory_bytes"] == pytest.approx(peak, rel=0.01)
