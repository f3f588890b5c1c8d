"""Weights that accelerate keeps elsewhere: every site, table, head and kernel computes the same."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from conftest import CAUSAL, auto, inputs, output, pico
from test_attending import KERNELS, made
from test_laws import ALONE

from tlmtool.decompositions import named
from tlmtool.decompositions.svd import SVD
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, sites

FAMILIES = ("bert", "gpt2", "llama", "t5-gated", "marian")
MIXING = [("bert", k) for k in KERNELS] + [("gpt2", k) for k in KERNELS]
MIXING += [("llama", "dimensionwise"), ("bart", "conv"), ("distilbert", "decay")]


def compressed(family: str, name: str):
    """Every site held as factors, the table and the head tied to it too."""
    model = pico(family, "lm")
    small = named(name)(3)
    factorize(model, {s: SVD(5) if r == "embedding" else small for s, r in sites(model).items()})
    return adopt(model).eval()


def memory(model) -> dict:
    """Room for half of the weights; a disk takes the others."""
    return {"cpu": sum(p.numel() * p.element_size() for p in model.parameters()) // 2}


def assert_the_same_from_elsewhere(model, family: str, folder) -> None:
    model.save_pretrained(folder / "whole")
    kept = {"offload_folder": folder / "kept"}
    load = auto(family, "lm").from_pretrained
    found = {
        "memory": cpu_offload(copy.deepcopy(model), execution_device="cpu"),
        "disk": disk_offload(copy.deepcopy(model), folder / "disk", execution_device="cpu"),
    }
    if family != "marian":  # whose sinusoids transformers looks for in the file, dense or not
        kept["max_memory"] = memory(model)
        found["half"] = load(folder / "whole", device_map="auto", **kept).eval()
    for place, again in found.items():
        assert any(p.is_meta for p in again.parameters()), place
        for _ in range(2):  # the second time they are brought again
            assert torch.equal(output(again), output(model)), place


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ALONE)
def test_factors(family, name, tmp_path):
    assert_the_same_from_elsewhere(compressed(family, name), family, tmp_path)


@pytest.mark.parametrize(("family", "kernel"), MIXING)
def test_kernels(family, kernel, tmp_path):
    assert_the_same_from_elsewhere(made(family, kernel), family, tmp_path)


@pytest.mark.parametrize("family", [*CAUSAL[:2], "t5-gated", "bart"])
def test_generate(family):
    model = compressed(family, "btd") if family.startswith("t5") else made(family, "decay")
    given = {k: v for k, v in inputs(model).items() if k != "decoder_input_ids"}
    given |= {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    expected = model.generate(**given)
    assert torch.equal(cpu_offload(model, execution_device="cpu").generate(**given), expected)
