"""In a new process: checkpoints load after `import tlmtool` in any order, and never without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, inputs, output, pico
from factored import compressed, parameters
from transformers import BertModel

from tlmtool.models import modeling

ROOT = Path(__file__).parent.parent


def fresh(code: str) -> subprocess.CompletedProcess:
    """Run in a new process, without our conftest."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    more = {"env": env, "stdin": subprocess.DEVNULL, "timeout": 300}  # nobody answers a question
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **more)


def test_reload_in_a_new_process_is_exact(tmp_path):
    model = compressed("bert", "lm", "btd")
    model.save_pretrained(tmp_path)
    torch.save((inputs(model), output(model)), tmp_path / "truth.pt")
    ran = fresh(f"""
import torch, tlmtool
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained({str(tmp_path)!r})
x, y = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    print(type(model).__name__, float((model(**x).logits - y).abs().max()))
""")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["TlmBertForMaskedLM", "0.0"]


ORDERS = {
    "transformers first": "from transformers import AutoModel; import tlmtool",
    "half imported": "import tlmtool; from transformers.models.auto.modeling_auto import AutoModel",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_imports_does_not_matter(order, tmp_path):
    """`modeling_auto` imports AutoConfig before it has defined a model class of its own."""
    compressed("gpt2").save_pretrained(tmp_path)
    ran = fresh(f"""
{ORDERS[order].replace("; ", chr(10))}
print(type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__)
""")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["TlmGPT2Model"]


def test_the_package_does_not_import_transformers():
    ran = fresh("import sys, tlmtool; print('torch' in sys.modules, 'transformers' in sys.modules)")
    assert ran.stdout.split() == ["False", "False"]


def test_without_us_it_is_an_error_never_noise(tmp_path):
    """Also by the family's own class, which only warns and goes on with random weights."""
    for family in CONFIGS:
        compressed(family).save_pretrained(tmp_path / family)
    ran = fresh(f"""
import json, transformers
from pathlib import Path
for folder in sorted(Path({str(tmp_path)!r}).iterdir()):
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    own = getattr(transformers, name.removeprefix("Tlm"))
    for cls in (transformers.AutoModel, transformers.AutoConfig, own, own.config_class):
        try:
            cls.from_pretrained(folder, trust_remote_code=False)  # without it, a question
            print(folder.name, cls.__name__, "LOADED")
        except Exception as error:
            message = str(error).replace(chr(10), " ")
            print(folder.name, cls.__name__, "refused:", message)
""")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 4 * len(CONFIGS) and not [line for line in lines if "LOADED" in line]
    for line in lines:
        assert "import tlmtool" in line or "trust_remote_code=True" in line, line


def test_a_class_of_the_family_refuses_with_us_too(tmp_path):
    compressed("bert").save_pretrained(tmp_path)
    with pytest.raises(Exception, match="import tlmtool, then load it with an Auto class"):
        BertModel.from_pretrained(tmp_path)


def test_a_merged_folder_loads_without_us(tmp_path):
    dense = pico("gpt2", "lm")
    model = modeling.merge(compressed("gpt2", "lm", "btd", embedding=True))
    model.save_pretrained(tmp_path)
    torch.save((inputs(model), output(model)), tmp_path / "truth.pt")
    ran = fresh(f"""
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
x, y = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    same = float((model(**x).logits - y).abs().max())
print(type(model).__name__, sum(p.numel() for p in model.parameters()), same)
assert "tlmtool" not in sys.modules
""")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["GPT2LMHeadModel", str(parameters(dense)), "0.0"]
