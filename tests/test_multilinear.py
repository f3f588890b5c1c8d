"""Guards what is special to multi-linear attention; test_attention.py has the laws of kernels."""

from itertools import product

import pytest
import torch

from tlmtool.attention import _decay, _full, _windows, from_dict
from tlmtool.attention.multilinear import SPREAD, MultiLinear

LENGTH = 40  # of a W^O under "full"
KERNELS = [
    MultiLinear(w_o, core, LENGTH if w_o == "full" else None, terms=3, kernel=4)
    for w_o, core in product(("full", "decay", "conv"), ("diagonal", "full"))
]
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
EVERY = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.w_o}-{k.core}")


def drawn(kernel, blocks, n, rank=5, features=16, batch=2, dtype=torch.float64):
    """(q, k, v), learned tensors off their start; leaves"""
    torch.manual_seed(n)
    tensors = kernel.initial(blocks, rank, features)
    tensors = {name: (t + 0.1 * torch.randn(t.shape)).to(dtype) for name, t in tensors.items()}
    qkv = [torch.randn(batch, blocks, n, rank, dtype=dtype) for _ in range(3)]
    for leaf in (*qkv, *tensors.values()):
        leaf.requires_grad_()
    return qkv, tensors


def ragged(n):
    """(2, N), padded on the left and on the right"""
    real = torch.ones(2, n, dtype=torch.bool)
    real[0, : n // 4], real[1, n - n // 3 :] = False, False
    return real


@EVERY
@CAUSAL
@pytest.mark.parametrize("blocks, n", [(1, 1), (2, 3), (2, 37), (3, 40)])
@pytest.mark.parametrize("pieces", ["as they come", "small"])
def test_fast_is_naive_and_so_are_its_gradients(kernel, causal, blocks, n, pieces, monkeypatch):
    if pieces == "small":  # that do not divide N
        monkeypatch.setattr(_full, "PIECE", 1500)
        monkeypatch.setattr(_full, "CHUNK", 6)
        monkeypatch.setattr(_windows, "LEAST", 7)
        monkeypatch.setattr(_windows, "PIECE", 1)
        monkeypatch.setattr(_windows, "SPAN", 1)
        monkeypatch.setattr(_decay, "CHUNK", 3)
    qkv, tensors = drawn(kernel, blocks, n)
    leaves, grads, outs = [*qkv, *tensors.values()], [], []
    for way in (kernel.apply, kernel.naive):
        out = way(*qkv, tensors, ragged(n), causal)
        outs.append(out)
        generator = torch.Generator().manual_seed(0)
        seen = torch.randn(out.shape, generator=generator, dtype=out.dtype)
        grads.append(torch.autograd.grad(out, leaves, seen))
    with torch.no_grad():
        outs.append(kernel.apply(*qkv, tensors, ragged(n), causal))
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(outs[2], outs[1], rtol=0, atol=1e-10)
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


@EVERY
@CAUSAL
def test_blocks_that_share_projections_are_one_with_the_mean_core(kernel, causal):
    (q, k, v), tensors = drawn(kernel, 2, 20)
    one = {n: t[:1] if n.startswith(("gain", "core")) else t for n, t in tensors.items()}
    two = {n: t[:1].expand_as(tensors[n]) for n, t in one.items() if n.startswith("gain")}
    if kernel.core == "diagonal":  # the mean of two softmaxes is one
        one["core"] = tensors["core"].softmax(-1).mean(0, keepdim=True).log()
    else:
        one["core"] = tensors["core"].mean(0, keepdim=True)
    single = [x[:, :1] for x in (q, k, v)]
    double = [x.expand(-1, 2, -1, -1) for x in single]
    torch.testing.assert_close(
        kernel.apply(*double, tensors | two, causal=causal),
        kernel.apply(*single, one, causal=causal),
        rtol=0,
        atol=1e-12,
    )


@CAUSAL
@pytest.mark.parametrize("rate", [0.5, 0.9, 1 - 1e-4])
def test_decays_are_the_closed_formula_at_length_2048_without_overflow(rate, causal):
    n, kernel = 2048, MultiLinear("decay", terms=1)
    tensors = kernel.initial(1, 1, 1)
    for name in ("rate_k", "rate_v"):
        tensors[name] = torch.tensor([rate]).logit()
    tensors["out"] = torch.ones(1, 1, 1)
    ones = torch.ones(1, 1, n, 1)
    y = kernel.apply(ones, ones, ones, tensors, causal=causal)[0, :, 0]
    i = torch.arange(n, dtype=torch.float64)
    lost = 1 - float(tensors["rate_k"].double().sigmoid())
    left = (1 - (1 - lost) ** (i + 1)) / lost
    total = left if causal else left + left.flip(0) - 1
    # T = q k v = 1 up to the small number in the RMS
    expected = lost**2 * total**2
    torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=0)


@CAUSAL
@pytest.mark.parametrize("logit", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_gradients_are_finite_at_every_rate(logit, causal):
    kernel = MultiLinear("decay", terms=2)
    qkv, tensors = drawn(kernel, 1, 100, dtype=torch.float32)
    for name in ("rate_k", "rate_v"):
        tensors[name] = torch.full((2,), logit, requires_grad=True)
    out = kernel.apply(*qkv, tensors, causal=causal)
    found = torch.autograd.grad(out.sum(), [*qkv, *tensors.values()])
    assert all(torch.isfinite(x).all() for x in (out, *found))


@pytest.mark.parametrize("w_o", ["decay", "conv"])
@CAUSAL
def test_any_length_and_place(w_o, causal):
    """Relative: moved by 5 tokens of padding, at 8192 tokens, the outputs are the same."""
    kernel = MultiLinear(w_o, terms=2, kernel=3)
    qkv, tensors = drawn(kernel, 1, 8192, rank=2, features=4, batch=1, dtype=torch.float32)
    with torch.no_grad():
        whole = kernel.apply(*qkv, tensors, causal=causal)
        moved = [torch.nn.functional.pad(x, (0, 0, 5, 0), value=7.0) for x in qkv]
        real = torch.arange(8197)[None] >= 5
        torch.testing.assert_close(kernel.apply(*moved, tensors, real, causal)[:, 5:], whole)
    assert torch.isfinite(whole).all()


def test_the_window_of_conv_is_the_kernel():
    """Causal: the last K tokens; centred: one more before than after where K is even."""
    kernel = MultiLinear("conv", kernel=4)
    qkv, tensors = drawn(kernel, 1, 12)
    for causal, seen in ((True, range(3, 7)), (False, range(4, 8))):
        moved = set()
        for j in range(12):
            other = [x.detach().clone() for x in qkv]
            other[1][:, :, j] += 1
            other[2][:, :, j] += 1
            change = kernel.apply(qkv[0], *other[1:], tensors, causal=causal)
            change = change - kernel.apply(*qkv, tensors, causal=causal)
            if change[:, 6].abs().max() > 1e-6:
                moved.add(j)
        assert moved == set(seen)


@EVERY
@CAUSAL
def test_outputs_start_at_the_size_that_is_said(kernel, causal):
    for blocks, rank, scale in ((1, 32, 1.0), (4, 16, 0.02), (8, 8, 30.0)):
        torch.manual_seed(0)
        tensors = kernel.initial(blocks, rank, 64)
        qkv = [scale * torch.randn(4, blocks, LENGTH, rank) for _ in range(3)]
        out = kernel.apply(*qkv, tensors, causal=causal)
        least = 0.2 if kernel.w_o == "decay" else 0.4  # of means over up to 64 tokens
        assert least < float(out.std()) / SPREAD < 1.6


@pytest.mark.parametrize("kernel", KERNELS[2:], ids=lambda k: f"{k.w_o}-{k.core}")
def test_a_state_keeps_no_text_in_memory(kernel):
    qkv, tensors = drawn(kernel, 2, 200)
    _, state = kernel.stream(*qkv, tensors)
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in state.values())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"w_o": "full"}, r"w_o full is built for one length: give length N"),
        ({"length": 8}, r"length 8 with w_o decay"),
    ],
)
def test_choices_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        MultiLinear(**fields)


def test_rank_above_width():
    with pytest.raises(ValueError, match="rank 65 is above 64"):
        MultiLinear().shapes(2, 65, 64)


@EVERY
def test_own_blocks_and_rank(kernel):
    assert kernel.heads(8, 64) == (8, 64)
    made = from_dict(kernel.to_dict() | {"rank": 40, "blocks": 2})
    assert made.heads(8, 64) == (2, 40) and made.own_output and made.out_features(2, 40, 512) == 512


@pytest.mark.parametrize("kernel", KERNELS[::2], ids=lambda k: k.w_o)
@CAUSAL
def test_compiled(kernel, causal):
    qkv, tensors = drawn(kernel, 2, 9, dtype=torch.float32)
    torch._dynamo.reset()  # its limit on compiling one function again is for one model
    compiled = torch.compile(kernel.apply, backend="aot_eager", fullgraph=True)
    leaves, outs, grads = [*qkv, *tensors.values()], [], []
    for way in (compiled, kernel.apply):
        outs.append(way(*qkv, tensors, ragged(9), causal))
        grads.append(torch.autograd.grad(outs[-1].square().sum(), leaves))
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
