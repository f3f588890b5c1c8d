"""The plug-in for vLLM, without vLLM: what it registers, what it refuses, and that vLLM's way of
putting its own layers in the place of linears leaves the outputs as they are."""

import copy
import pickle
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from conftest import apart, output, pico
from factored import compressed, spec
from torch import nn
from torch.nn import functional
from transformers import AutoConfig

from tlmtool.attention.multilinear import MultiLinear
from tlmtool.models import serving
from tlmtool.models.factorized import FactorizedLinear
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, modes, sites

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))
ENTRY = PROJECT["project"]["entry-points"]["vllm.general_plugins"]["tlm"]
BACKEND = "vllm.model_executor.models.transformers"


class Base(nn.Module):
    """In the place of vLLM's models: what they do with the linears below a model.

    Like vLLM it looks at the first module of each class and treats all others of the class alike.
    """

    def __init__(self, model: nn.Module, devices: int = 1, is_moe: bool = False):
        super().__init__()
        self.model = model
        self.model_config = SimpleNamespace(is_moe=is_moe)
        self.parallel_config = SimpleNamespace(tensor_parallel_size=devices)
        self.recursive_replace()

    def recursive_replace(self) -> None:
        fused: dict[type, list[str]] = {}
        for module in list(self.model.modules()):
            dense = [n for n, m in module.named_children() if isinstance(m, nn.Linear)]
            for name in fused.setdefault(type(module), dense):
                setattr(module, name, Other(module.get_submodule(name)))


class Other(nn.Module):
    """A linear of another program: no `nn.Linear`, of the same weight. Made of anything that is no
    plain linear, it fails."""

    def __init__(self, linear: nn.Module):
        super().__init__()
        assert type(linear) is nn.Linear
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


@pytest.fixture
def registered(monkeypatch) -> dict[str, str]:
    """What the plug-in registers, in a stub of vLLM's registry, filled as vLLM calls it: twice."""
    held: dict[str, str] = {}
    parts = BACKEND.split(".")
    for n in range(1, len(parts) + 1):
        made = ModuleType(".".join(parts[:n]))
        monkeypatch.setitem(sys.modules, made.__name__, made)
        if n > 1:
            setattr(sys.modules[".".join(parts[: n - 1])], parts[n - 1], made)
    sys.modules["vllm"].ModelRegistry = SimpleNamespace(register_model=held.__setitem__)
    for name in serving.HEADS.values():
        setattr(sys.modules[BACKEND], name, type(name, (Base,), {}))
    module, _, function = ENTRY.partition(":")
    for _ in range(2):
        getattr(import_module(module), function)()
    yield held
    sys.modules.pop(serving.SERVED, None)


def served(registered: dict[str, str], model: nn.Module, **more) -> nn.Module:
    """The model as vLLM finds and changes it."""
    module, _, name = registered[type(model).__name__].partition(":")
    return getattr(import_module(module), name)(model, **more).model


@pytest.mark.parametrize(
    ("family", "head", "name"),
    [
        ("llama", "lm", "TransformersForCausalLM"),
        ("gpt2", "lm", "TransformersForCausalLM"),
        ("llama", "base", "TransformersEmbeddingModel"),
        ("bert", "base", "TransformersEmbeddingModel"),
        ("bert", "classification", "TransformersForSequenceClassification"),
    ],
)
def test_the_classes_of_our_checkpoints_are_registered(registered, family, head, name):
    model = compressed(family, head)
    assert registered[type(model).__name__] == f"{serving.SERVED}:{name}"
    assert issubclass(getattr(import_module(serving.SERVED), name), Base)


def test_only_our_own_names_are_registered(registered):
    assert len(registered) > 300 and all(name.startswith("Tlm") for name in registered)


@pytest.mark.parametrize("name", ["svd", "btd", "mpo"])
@pytest.mark.parametrize(("family", "head"), [("llama", "lm"), ("bert", "base")])
def test_a_model_computes_the_same_with_the_linears_of_another(registered, family, head, name):
    model = compressed(family, head, name)
    before = output(model)
    changed = served(registered, model)
    assert any(isinstance(m, Other) for m in changed.modules()) == (name == "svd" or head == "lm")
    assert not any(type(m) is nn.Linear for _, m in changed.base_model.named_modules())
    assert apart(output(changed), before) < 1e-5


def test_layers_with_different_sites_factorized_are_told_apart(registered):
    model = pico("llama", "lm")
    found = {s: r for s, r in sites(model).items() if r != "embedding"}
    plan = {s: spec("svd", modes(model, s, r)) for s, r in found.items() if "layers.1." in s}
    factorize(model, plan)
    adopt(model)
    before = output(model)
    with pytest.raises(AssertionError):  # the stand-in takes factors for a plain linear, as vLLM
        Base(copy.deepcopy(model))
    first, second = model.model.layers
    assert apart(output(served(registered, model)), before) < 1e-5
    assert type(first.mlp) is not type(second.mlp)
    assert isinstance(second.mlp, type(first.mlp)) and second.mlp.factorized
    assert isinstance(second.mlp.up_proj, FactorizedLinear)


class Rounded(nn.Module):
    """A linear of another program whose weight is of one-byte floats, for inputs as they are."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias)


def test_links_of_one_byte_floats_take_the_input_as_it_is():
    model = compressed("llama", "lm")
    site = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for name, link in list(site.links.named_children()):
        setattr(site.links, name, Rounded(link))
    expected = site.links.left(site.links.right(x))
    assert site(x).dtype == torch.float32 and torch.equal(site(x), expected)


def with_kernel() -> nn.Module:
    model = pico("llama", "lm")
    factorize(model, {"layers.0.self_attn": MultiLinear()})
    return adopt(model)


@pytest.mark.parametrize(
    ("make", "more", "says"),
    [
        (with_kernel, {}, "layers.0.self_attn has a kernel: use transformers"),
        (lambda: compressed("llama", "lm", embedding=True), {}, "embed_tokens is held as two"),
        (lambda: compressed("t5"), {}, "an encoder and a decoder"),
        (lambda: compressed("llama", "lm"), {"devices": 2}, "--tensor-parallel-size 1"),
        (lambda: compressed("llama", "lm"), {"is_moe": True}, "a mixture of experts"),
        (lambda: compressed("llama", "classification"), {}, "a decoder by the last one"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_in_a_sentence(registered, make, more, says):
    with pytest.raises(ValueError, match=says) as refused:
        served(registered, make(), **more)
    assert "\n" not in str(refused.value) and ": " in str(refused.value)


def test_a_model_without_factors_may_be_split(registered):
    assert serving.refusal(adopt(pico("llama", "lm")), devices=2, experts=True) is None


def test_another_process_reads_a_pickled_config_and_imports_no_vllm(tmp_path):
    """vLLM sends the config to processes that have not made its class."""
    config = AutoConfig.for_model("tlm-llama", hidden_size=48)
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    (tmp_path / "vllm.py").write_text("raise SystemExit('vllm was imported')")
    code = """
import pickle, sys
print(pickle.load(open(sys.argv[1], "rb")).hidden_size)
import tlmtool.models.modeling, tlmtool.models.serving
"""
    words = [sys.executable, "-c", code, str(tmp_path / "config")]
    paths = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    done = subprocess.run(words, check=True, capture_output=True, env=paths)
    assert done.stdout.strip() == b"48"
