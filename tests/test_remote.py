"""Whoever does not know tlm opens its checkpoints with trust_remote_code; tlm runs no such code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import auto, inputs, output, pico, word_tokenizer
from factored import FAMILY, assert_same, compressed
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tlmtool.cli import run
from tlmtool.models import modeling
from tlmtool.models.remote import CONFIGURATION, MODELING

ROOT = Path(__file__).parent.parent
FILES = {f"{CONFIGURATION}.py", f"{MODELING}.py"}


def code_of(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.py")}


def mapped(folder: Path) -> dict[str, str]:
    return json.loads((folder / "config.json").read_text()).get("auto_map", {})


def check_opens(folder: Path) -> None:
    """The files are those of `auto_map`, and give the very classes that the Auto classes load."""
    assert code_of(folder) == FILES
    config = AutoConfig.from_pretrained(folder)
    for name, reference in mapped(folder).items():
        found = get_class_from_dynamic_module(reference, folder)
        known = type(config) if name == "AutoConfig" else modeling.model_classes(config.model_type)
        assert found is (known if name == "AutoConfig" else known[name])


def fresh(code: str, cache: Path) -> subprocess.CompletedProcess:
    """Run in a new process that has tlmtool on its path and nobody at its keyboard."""
    more = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    more |= {"HF_MODULES_CACHE": str(cache)}
    given = {"env": {**os.environ, **more}, "stdin": subprocess.DEVNULL, "timeout": 300}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **given)


@FAMILY
def test_every_family_and_head(family, tmp_path):
    for head in ("base", "lm"):
        model = compressed(family, head)
        model.save_pretrained(tmp_path / head, max_shard_size="5KB" if head == "lm" else "5GB")
        check_opens(tmp_path / head)
        names = mapped(tmp_path / head)
        assert names["AutoModel"].startswith(f"{MODELING}.Tlm")
        assert head == "base" or names[auto(family, "lm").__name__].endswith(type(model).__name__)


def test_a_config_saved_alone_carries_them_too(tmp_path):
    compressed("bert").config.save_pretrained(tmp_path)
    check_opens(tmp_path)


def test_trust_changes_nothing_where_tlmtool_is_imported(tmp_path):
    """The classes are the registered ones, and what is saved again has the same two files."""
    model = compressed("bert", "lm", "btd")
    model.save_pretrained(tmp_path / "a")
    for trust in (None, True, False):
        again = AutoModelForMaskedLM.from_pretrained(tmp_path / "a", trust_remote_code=trust)
        assert_same(again, model)
        for name in ("AutoConfig", "AutoModelForMaskedLM"):
            (type(again.config) if name == "AutoConfig" else type(again)).register_for_auto_class()
        again.save_pretrained(tmp_path / "b")
        check_opens(tmp_path / "b")


LOADS = """
import json, sys
{first}
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
folder = {folder!r}
def tried(what):
    try:
        return what()
    except Exception as error:
        print(type(error).__name__, "|", error)
"""


def test_without_the_import_and_with_trust_the_model_is_the_same(tmp_path):
    model = compressed("llama", "lm", "btd")
    model.save_pretrained(tmp_path / "m")
    word_tokenizer().save_pretrained(tmp_path / "m")
    torch.save((inputs(model), output(model)), tmp_path / "truth.pt")
    code = LOADS.format(first="import torch", folder=str(tmp_path / "m"))
    ran = fresh(
        f"""{code}
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
x, y = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    print(type(model).__name__, float((model(**x).logits - y).abs().max()), len(tokenizer))
made = pipeline("text-generation", folder, trust_remote_code=True)
print(type(made.model).__name__, len(made("the cat", max_new_tokens=2)))
""",
        tmp_path / "cache",
    )
    assert ran.returncode == 0, ran.stderr
    kind = type(model).__name__
    assert ran.stdout.split() == [kind, "0.0", str(len(word_tokenizer())), kind, "1"]


def test_without_tlmtool_one_sentence_says_what_to_install(tmp_path):
    """And without trust, transformers says that trust is needed; nobody waits for an answer."""
    compressed("llama", "lm").save_pretrained(tmp_path / "m")
    code = LOADS.format(first="sys.modules['tlmtool'] = None", folder=str(tmp_path / "m"))
    ran = fresh(
        f"""{code}
for auto in (AutoModel, AutoModelForCausalLM, AutoModel):
    tried(lambda: auto.from_pretrained(folder, trust_remote_code=True))
print("apart", file=sys.stderr)
print("apart")
tried(lambda: AutoModel.from_pretrained(folder))
""",
        tmp_path / "cache",
    )
    assert ran.returncode == 0, ran.stderr
    trusted, bare = ran.stdout.split("apart\n")
    needs = "this checkpoint needs the package tlmtool: pip install tlmtool"
    assert trusted.splitlines() == [f"ImportError | {needs}"] * 3
    assert "tlmtool" not in ran.stderr.split("apart")[0]  # no warning before the sentence
    assert "pass the argument `trust_remote_code=True`" in bare


# ---- what tlm writes, and what it never runs

EVIL = "from pathlib import Path\nPath({mark!r}).touch()\n\n\nclass Evil: ...\n"


@pytest.fixture
def dense(tmp_path):
    """A plain bert from which its own code would be loaded, if anyone did."""
    folder = tmp_path / "dense"
    pico("bert", "lm").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def with_evil(folder: Path, mark: Path) -> None:
    """Give a folder code that leaves a mark when it is run, named for every Auto class."""
    for name in (f"{CONFIGURATION}.py", f"{MODELING}.py"):
        (folder / name).write_text(EVIL.format(mark=str(mark)))
    config = folder / "config.json"
    names = {"AutoConfig": f"{CONFIGURATION}.Evil", "AutoTokenizer": f"{CONFIGURATION}.Evil"}
    names |= dict.fromkeys(("AutoModel", "AutoModelForMaskedLM"), f"{MODELING}.Evil")
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": names}))
    tokenizer = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": [f"{CONFIGURATION}.Evil", f"{CONFIGURATION}.Evil"]}}
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), **own}))


def tlm(*args) -> int:
    return run([*map(str, args), "-q"])


def test_every_verb_writes_them_and_plain_folders_have_none(dense, tmp_path):
    out = {name: tmp_path / name for name in ("m2", "grown", "tuned", "bits", "plain", "again")}
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat\n" * 9)
    small = ("compress", dense, "--rank", 2, "--calibration", "none", "--out")
    assert tlm(*small, out["m2"]) == 0
    assert tlm("overparam", dense, "--growth", 2, "--out", out["grown"]) == 0
    train = ("--task", "mlm", "--data", text, "--steps", 1, "--max-length", 8)
    assert tlm("finetune", out["m2"], *train, "--out", out["tuned"]) == 0
    written = ["m2", "grown", "tuned"]
    assert tlm("merge", out["m2"], "--out", out["plain"]) == 0
    assert tlm(*small, out["again"]) == 0
    assert tlm(*small, out["again"], "--overwrite") == 0  # they belong to a checkpoint
    for name in [*written, "again"]:
        check_opens(out[name])
        listed = json.loads((out[name] / "report.json").read_text())["files"]
        assert set(listed) >= FILES
    assert not code_of(out["plain"]) and not mapped(out["plain"])


def test_a_quantized_checkpoint_of_ours_carries_them(dense, tmp_path):
    pytest.importorskip("compressed_tensors")
    small = ("--rank", 2, "--calibration", "none", "--bits", 8)
    assert tlm("compress", dense, *small, "--out", tmp_path / "bits") == 0
    check_opens(tmp_path / "bits")
    assert tlm("merge", tmp_path / "bits", "--out", tmp_path / "plain") == 0
    assert not code_of(tmp_path / "plain") and not mapped(tmp_path / "plain")


@pytest.mark.parametrize("kind", ["plain", "ours"])
def test_no_code_of_a_folder_is_ever_run_nor_carried_on(kind, dense, tmp_path):
    folder, mark = dense, tmp_path / "mark"
    if kind == "ours":
        folder = tmp_path / "ours"
        assert tlm("compress", dense, "--rank", 2, "--calibration", "none", "--out", folder) == 0
    with_evil(folder, mark)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat\n" * 9)
    assert tlm("evaluate", folder, "--task", "mlm", "--data", text) == 0
    assert tlm("profile", folder, "--seq-len", 8) == 0
    verb = ("overparam", folder, "--growth", 2) if kind == "plain" else ("merge", folder)
    assert tlm(*verb, "--out", tmp_path / "out") == 0
    train = ("--task", "mlm", "--data", text, "--steps", 1, "--max-length", 8)
    assert tlm("finetune", folder, *train, "--out", tmp_path / "tuned") == 0
    made = tmp_path / ("out" if kind == "plain" else "tuned")
    assert not mark.exists()
    check_opens(made)
    bare = tmp_path / ("tuned" if kind == "plain" else "out")
    assert not code_of(bare) and not mapped(bare)
