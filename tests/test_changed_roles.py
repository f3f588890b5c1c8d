"""Guards roles in models that tlm or a family has changed: kernels for softmax, tied weights."""

import re

import pytest
from conftest import pico

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.models.roles import roles_of
from tlmtool.models.surgery import factorize, sites


@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
@pytest.mark.parametrize("kernel", [DimensionWise(), DimensionWise(kernels=2), MultiLinear()])
def test_roles_stay_where_a_kernel_mixes_tokens(family, kernel):
    model = pico(family, "lm")
    before = sites(model)
    paths = [p for p, _ in model.base_model.named_modules() if re.search(r"\.(self|self_attn)$", p)]
    factorize(model, {paths[-1]: kernel})
    after = sites(model)
    assert after == {site: role for site, role in before.items() if site in after}
    assert (len(after) == len(before)) == isinstance(kernel, DimensionWise)


def test_linears_that_share_a_weight_stay_dense():
    model = pico("llama", "lm")
    one, other = (layer.mlp.up_proj for layer in model.base_model.layers)
    other.weight = one.weight
    found = roles_of(model)
    assert found.kept_dense == {
        f"layers.{n}.mlp.up_proj": f"it shares its weight with layers.{1 - n}.mlp.up_proj"
        for n in (0, 1)
    }
    assert not {*found.of} & {*found.kept_dense} and "layers.0.mlp.gate_proj" in found.of
