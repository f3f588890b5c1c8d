"""Backends of sentence-transformers read an export as it lies there. optimum, which they need, does
not install beside transformers 5, so that a stand-in runs the file and holds the list of types."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import word_tokenizer
from factored import compressed
from transformers import AutoConfig
from transformers.modeling_outputs import BaseModelOutput

from tlmtool.cli import run
from tlmtool.models.exporters import MANAGER
from tlmtool.models.saving import save

TEXTS = ["the cat sat on a mat", "dogs ran far"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A compressed checkpoint with a tokenizer."""
    place = tmp_path_factory.mktemp("backends") / "small"
    save(compressed("bert", "base", name="svd"), place)
    word_tokenizer().save_pretrained(place)
    return place


class StandIn:
    """As optimum's class for ONNX files, of which sentence-transformers calls this much."""

    def __init__(self, file: Path, config):
        import onnxruntime

        self.session, self.config = onnxruntime.InferenceSession(str(file)), config
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.main_input_name = "input_ids"

    @classmethod
    def from_pretrained(cls, name, config, export, subfolder, file_name, **_):
        """Opens the file that sentence-transformers has found; it is not exported again."""
        assert not export and config.model_type == "bert"
        return cls(Path(name) / subfolder / file_name, config)

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **_):
        """As a model of transformers."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        given["token_type_ids"] = torch.zeros_like(input_ids)
        found = self.session.run(None, {name: each.numpy() for name, each in given.items()})
        return BaseModelOutput(last_hidden_state=torch.from_numpy(found[0]))

    __call__ = forward

    def _save_pretrained(self, *_) -> None:
        raise NotImplementedError


def test_the_backend_onnx_embeds_as_torch_does(folder, monkeypatch):
    pytest.importorskip("onnxruntime")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    out = folder.with_name("onnx")
    assert run(["export", str(folder), "--to", "onnx", "--out", str(out), "--runs", "1", "-q"]) == 0
    stub = types.ModuleType("optimum.onnxruntime")
    stub.ONNX_WEIGHTS_NAME = "model.onnx"
    for kind in ("CausalLM", "FeatureExtraction", "MaskedLM", "SequenceClassification"):
        setattr(stub, f"ORTModelFor{kind}", StandIn)
    monkeypatch.setitem(sys.modules, "optimum", types.ModuleType("optimum"))
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime", stub)
    ours = sentence_transformers.SentenceTransformer(str(out), backend="onnx", device="cpu")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    wanted = theirs.encode(TEXTS)
    assert np.abs(ours.encode(TEXTS) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_exporters_know_our_types_once_they_are_loaded(folder, monkeypatch):
    task = {"onnx": {"feature-extraction": object()}}
    tables = {"transformers": {"bert": task}, "sentence_transformers": {"transformer": {}}}
    stub = types.ModuleType(MANAGER)
    stub.TasksManager = types.SimpleNamespace(_LIBRARY_TO_SUPPORTED_MODEL_TYPES=tables)
    AutoConfig.from_pretrained(folder)  # without optimum nothing happens
    monkeypatch.setitem(sys.modules, MANAGER, stub)
    config = AutoConfig.from_pretrained(folder)
    assert tables["transformers"][config.model_type] is task and len(tables["transformers"]) == 2
