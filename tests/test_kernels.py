"""Guards what every attention kernel says of itself: its file, choices, shapes and FLOPs."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from test_attention import (
    KERNELS,
    B,
    E,
    H,
    N,
    apart,
    both_ways,
    drawn,
    every,
    gradients,
    ragged,
    small_blocks,  # noqa: F401, so that these lengths need several blocks here too
    width_of,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tlmtool import attention
from tlmtool.attention import NAMES, Attention, from_dict, named
from tlmtool.recipe.attention import choices_of
from tlmtool.recipe.schema import settings
from tlmtool.recipe.verbs import VERBS


@every
def test_shapes_tell_the_truth_and_fields_come_back(name):
    kernel = KERNELS[name]
    made = kernel.initial(H, 8, 24)
    assert {k: tuple(x.shape) for k, x in made.items()} == kernel.shapes(H, 8, 24)
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in made.values())
    kept = kernel.to_dict()
    assert from_dict(kept) == kernel == from_dict(json.loads(json.dumps(kept)))
    assert hash(from_dict(kept)) == hash(kernel) and kept["name"] == kernel.name
    torch.manual_seed(3)
    first = kernel.initial(H, 8, 24)
    torch.manual_seed(3)
    again = kernel.initial(H, 8, 24)
    assert all(torch.equal(first[k], again[k]) for k in first)


@both_ways
def test_works_without_data(name, causal):
    kernel = KERNELS[name]
    with FakeTensorMode():
        qkv, t = drawn(name, grad=True)
        out = kernel.apply(*qkv, t, torch.ones(B, N, dtype=torch.bool), causal)
        out.sum().backward()
    assert out.shape == (B, N, kernel.out_features(H, width_of(name), E))
    d = width_of(name)
    shapes = kernel.shapes(H, d, max(E, d)).items()
    t = {k: torch.empty(s, device="meta") for k, s in shapes}
    qkv = [torch.empty(B, H, N, d, device="meta") for _ in range(3)]
    assert kernel.apply(*qkv, t, None, causal).shape == out.shape


def mixer_flops(kernel: Attention, n: int, width: int) -> int:
    """Of the convolution by shifts, which the counter does not see: it is elementwise."""
    return 2 * B * n * H * width * getattr(kernel, "kernels", 0) * getattr(kernel, "mixer", 0)


@both_ways
@pytest.mark.parametrize("grad", [True, False])  # without, some operators are not called as such
def test_flops_are_those_counted(name, causal, grad):
    qkv, t = drawn(name)
    kernel, d = KERNELS[name], width_of(name)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(grad):
        kernel.apply(*qkv, t, None, causal)
    unseen = mixer_flops(kernel, N, d)
    assert kernel.flops(B, H, N, d, E, causal) == counter.get_total_flops() + unseen


def test_the_folder_is_the_registry():
    files = {file.stem for file in Path(attention.__file__).parent.glob("[!_]*.py")}
    assert set(NAMES) == files - {"base"} == {kernel.name for kernel in KERNELS.values()}
    with pytest.raises(ValueError, match=r"'fourier'; known: .*dimensionwise"):
        named("fourier")


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_reads_every_choice_off_the_file(name):
    read = {each.name: each for each in choices_of(name)}
    known = {field.name: field for field in fields(named(name))}
    assert read.keys() == known.keys()
    for key, field in known.items():
        rules = {k: v for k, v in field.metadata.items() if k in ("choices", "ge")}
        assert (read[key].default, read[key].rules) == (field.default, rules)
        assert field.type in (read[key].kind, read[key].kind | None)


@pytest.mark.parametrize("verb", VERBS)
def test_no_two_settings_of_a_verb_have_one_flag(verb):
    flags = [each.flag for each in settings(verb).values() if each.flag]
    assert len(flags) == len(set(flags))


@every
def test_a_choice_that_breaks_its_rule_is_refused(name):
    cls = type(KERNELS[name])
    for field in fields(cls):
        if field.metadata.get("choices"):
            with pytest.raises(ValueError, match=rf"unknown {field.name} 'no'; known: "):
                cls(**{field.name: "no"})
        if (least := field.metadata.get("ge")) is not None:
            with pytest.raises(ValueError, match=rf"{field.name} {least - 1} is below {least}"):
                cls(**{field.name: least - 1})


@pytest.mark.parametrize(
    ("name", "causal"), [("kernels", False), ("kernels", True), ("thin", True)]
)
def test_compiles_whole(name, causal):
    (q, k, v), t = drawn(name, dtype=torch.float32, grad=True)
    real = ragged(N)

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return KERNELS[name].apply(q, k, v, t, real, causal)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    plain, fast = step(q, k, v), compiled(q, k, v)
    assert apart(fast, plain) < 1e-5
    leaves = [q, k, v, *t.values()]
    for a, b in zip(gradients(fast, real, leaves), gradients(plain, real, leaves), strict=True):
        assert apart(a, b) < 1e-4
