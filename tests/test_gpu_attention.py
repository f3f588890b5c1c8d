"""On a GPU attention kernels compute what they do on the CPU, alone and inside decoders."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from conftest import DEVICE, apart, inputs, pico
from front_door import told
from test_attending import made
from torch import Tensor

from tlmtool.attention import NAMES, named
from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, sites

pytestmark = pytest.mark.gpu
N = 21  # tokens of a text
KERNELS = {name: named(name)() for name in NAMES} | {
    "softmax f": DimensionWise(f="softmax", mixer=2),
    "kernels and mixer": DimensionWise(kernels=3, mixer=4),
    "conv, full core": MultiLinear("conv", "full", kernel=4),
    "full": MultiLinear("full", length=N),
}
WAYS = [(name, way) for name, k in KERNELS.items() for way in (False, True)[: 1 + k.causal]]


def drawn(name: str, dtype: torch.dtype, device: str) -> list[Tensor]:
    """q, k, v (2, 4, N, 8), then the learned tensors off their start: leaves, equal everywhere."""
    torch.manual_seed(0)
    kernel = KERNELS[name]
    heads, width = kernel.heads(4, 8)
    qkv = [torch.randn(2, heads, N, width) + 0.3 for _ in range(3)]
    learned = [x + 0.1 * torch.randn_like(x) for x in kernel.initial(heads, width, 32).values()]
    return [x.to(device, dtype).requires_grad_() for x in (*qkv, *learned)]


def worked(name: str, causal: bool, leaves: list[Tensor]) -> list[Tensor]:
    """The output (2, N, F) of texts one of which is padded, and the gradients of all leaves."""
    kernel = KERNELS[name]
    real = torch.ones(2, N, dtype=torch.bool, device=leaves[0].device)
    real[1, -3:] = False
    names = kernel.shapes(*kernel.heads(4, 8), 32)
    tensors = dict(zip(names, leaves[3:], strict=True))
    out = kernel.apply(*leaves[:3], tensors, real, causal) * real[..., None]
    weights = torch.linspace(-1, 2, out.numel()).view(out.shape).to(out)
    return [out, *torch.autograd.grad((out * weights).sum(), leaves)]


@pytest.mark.parametrize(("name", "causal"), WAYS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_a_kernel_computes_what_it_does_on_the_cpu(name, causal, dtype, near):
    """Forward and backward; bfloat16 has 8 bits, and inputs, results and gradients are rounded."""
    leaves = drawn(name, dtype, DEVICE)
    expected = worked(name, causal, [x.detach().double().cpu().requires_grad_() for x in leaves])
    for found, wanted in zip(worked(name, causal, leaves), expected, strict=True):
        assert found.dtype == dtype and found.device.type == leaves[0].device.type
        assert torch.isfinite(found).all() and apart(found, wanted) < near


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["dimensionwise", "decay", "conv", "full"])
def test_a_decoder_does_not_see_the_future(kernel):
    model = made("gpt2", kernel).to(DEVICE)
    ids = inputs(model)["input_ids"].to(DEVICE)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 90 + 3
    before, after = model(input_ids=ids).logits, model(input_ids=changed).logits
    moved = (after - before).abs().amax((0, 2)) / before.abs().max()
    assert moved[:5].max() <= 1e-6 and moved[5:].max() > 1e-4


@pytest.mark.parametrize(("family", "kernel"), [("gpt2", "dimensionwise"), ("llama", "decay")])
def test_a_cache_generates_what_the_whole_text_does(family, kernel):
    for model in (pico(family, "lm"), made(family, kernel)):
        chosen = [site for site, role in sites(model).items() if role == "up"]
        factorize(model, dict.fromkeys(chosen, SVD(3)))
        model = adopt(model).eval().to(DEVICE)
        given = {name: x.to(DEVICE) for name, x in inputs(model).items()}
        given |= {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False, "pad_token_id": 1}
        given |= {"output_logits": True, "return_dict_in_generate": True}
        cached, whole = (model.generate(**given, use_cache=use) for use in (True, False))
        assert torch.equal(cached.sequences, whole.sequences)
        for here, there in zip(cached.logits, whole.logits, strict=True):
            assert apart(here, there) < 1e-4


@pytest.mark.parametrize("name", ["softmax", *NAMES])
def test_memory_of_kernels_is_measured_there(name, capsys):
    words = ["profile", "--attention", name, "--seq-len", "64,128", "--heads", 2, "--head-width", 8]
    found = told(capsys, *words, "--device", DEVICE, "--backward", "--runs", 2)["complexity"]
    assert (found["device"] == "cpu") == (DEVICE == "cpu")  # else the name of the GPU
    for line in found["kernels"][name]["runs"]:
        gradients = 3 * 4 * line["seq_len"] * 2 * 8  # bytes of those of q, k and v
        assert line["peak_memory_bytes"] >= gradients and line["latency_ms"]["median"] > 0


@pytest.mark.parametrize("kernel", ["dimensionwise", "conv"])
def test_weights_kept_on_the_cpu_compute_the_same(kernel):
    model = made("gpt2", kernel)
    chosen = [site for site, role in sites(model).items() if role == "up"]
    factorize(model, dict.fromkeys(chosen, BTD(3)))
    model = adopt(model).eval()
    kept = cpu_offload(copy.deepcopy(model), execution_device=torch.device(DEVICE))
    assert any(p.is_meta for p in kept.parameters())
    given = {name: x.to(DEVICE) for name, x in inputs(model).items()}
    with torch.no_grad():
        for _ in range(2):  # the second time they are brought again
            assert torch.equal(kept(**given)[0], model.to(DEVICE)(**given)[0])
