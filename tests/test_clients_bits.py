"""Other programs that round weights: bitsandbytes and quantize_dynamic, on factors."""

import copy

import pytest
import torch
from conftest import auto, output
from factored import assert_same, compressed, relative
from test_narrow import narrower
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import BitsAndBytesConfig

from tlmtool.models.surgery import factorized, plan_of

FAMILIES = pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "t5-gated"])
BITS = pytest.mark.parametrize(("bits", "kind"), [(8, "Linear8bitLt"), (4, "Linear4bit")])


def rounded(model, family: str, folder, bits: int):
    """The model as bitsandbytes rounds it when it is loaded."""
    pytest.importorskip("bitsandbytes")
    model.save_pretrained(folder)
    how = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    return auto(family, "lm").from_pretrained(folder, quantization_config=how).eval()


def links(model) -> list[nn.Module]:
    return [x for _, m in factorized(model) if m.decomposition.chain for x in m.links]


@FAMILIES
@BITS
def test_bitsandbytes_rounds_the_factors(family, bits, kind, tmp_path):
    if (family, bits) == ("bert", 4):
        pytest.skip("on some CPUs bitsandbytes fails on the dense linear of its head, 32 wide")
    model = compressed(family, "lm", "svd").eval()
    again = rounded(model, family, tmp_path, bits)
    assert plan_of(again) == plan_of(model)
    assert {type(link).__name__ for link in links(again)} == {kind}
    found = output(again).float()
    assert 0 < relative(found, output(model)) < 1
    with pytest.raises(ValueError, match="keep the checkpoint in floats"):
        again.save_pretrained(tmp_path / "again")
    floats = again.dequantize().float().eval()  # the numbers that the rounded factors stand for
    assert {type(link) for link in links(floats)} == {nn.Linear}
    assert relative(found, output(floats)) < 0.1  # with 8 bits the inputs are rounded too


@BITS
def test_bitsandbytes_leaves_factors_that_are_no_linears(bits, kind, tmp_path):
    model = compressed("llama", "lm", "btd").eval()
    again = rounded(model, "llama", tmp_path, bits)
    assert torch.equal(output(again), output(model))
    again.save_pretrained(tmp_path / "again")
    assert_same(auto("llama", "lm").from_pretrained(tmp_path / "again").eval(), again)


@BITS
def test_lora_learns_beside_rounded_factors(bits, kind, tmp_path):
    peft = pytest.importorskip("peft")
    again = rounded(compressed("llama", "lm", "svd"), "llama", tmp_path, bits)
    before = output(again)
    wrapped = peft.get_peft_model(again, peft.LoraConfig(target_modules="all-linear"))
    assert torch.equal(output(wrapped), before)
    with torch.no_grad():
        for parameter in (p for p in wrapped.parameters() if p.requires_grad):
            parameter.add_(0.1)
    tuned = output(wrapped)
    assert relative(tuned, before) > 1e-2
    with pytest.raises(ValueError, match="quantized"):
        wrapped.merge_and_unload()
    wrapped.save_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["svd", "btd", "narrow"])
@FAMILIES
def test_quantize_dynamic(family, name):
    model = narrower(family)[0] if name == "narrow" else compressed(family, "lm", name)
    before = copy.deepcopy(model.eval())
    small = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert relative(output(small), output(before)) < 0.5
    assert all(not isinstance(link, nn.Linear) for link in links(small))
