"""sentence-transformers opens our folders by trust_remote_code alone, in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS, word_tokenizer
from factored import compressed

ROOT = Path(__file__).parent.parent


def test_a_folder_opens_without_the_import_of_tlmtool(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    for name in ("svd", "btd"):
        compressed("bert", "base", name).save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
        parts = [modules.Transformer(str(tmp_path / name)), modules.Pooling(32)]
        made = library.SentenceTransformer(modules=parts, device="cpu")
        made.save_pretrained(str(tmp_path / f"st-{name}"), create_model_card=False)
        torch.save(made.encode(WORDS, convert_to_tensor=True), tmp_path / f"{name}.pt")
    code = f"""
import sys, torch
from pathlib import Path
from sentence_transformers import SentenceTransformer
assert "tlmtool" not in sys.modules
for name in ("svd", "btd"):
    folder = Path({str(tmp_path)!r}) / f"st-{{name}}"
    model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    truth = torch.load(folder.parent / f"{{name}}.pt")
    found = model.encode({WORDS!r}, convert_to_tensor=True)
    print(type(model[0].model).__name__, float((found - truth).abs().max()))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"HF_MODULES_CACHE": str(tmp_path / "cache")}
    more = {"env": env, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    ran = subprocess.run([sys.executable, "-c", code], **more)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["TlmBertModel", "0.0"] * 2
