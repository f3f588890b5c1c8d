"""Guards the laws of every attention kernel: a new file in `attention/` is tested with no edit.

The fast way gives what the naive one gives, nothing leaks, and a stream gives what the whole gives.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from tlmtool.attention import NAMES, Attention, _blocks, named
from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear

B, H, D, E = 2, 3, 4, 12
N = 21  # more than two chunks of 8, and a piece
CHOSEN = {
    "cosine": DimensionWise(),
    "scale": DimensionWise(f="scale"),
    "softmax": DimensionWise(f="softmax", mixer=2),
    "kernels": DimensionWise(kernels=3, mixer=4),
    "rank": DimensionWise(rank=2),
    "thin": DimensionWise(rank=1, kernels=2, mixer=3),  # as linear attentions, see `drawn`
    "features": DimensionWise(f="features", kernels=2, mixer=3),
    "thin features": DimensionWise(f="features", rank=2),
    "decay": MultiLinear(w_o="decay", terms=3),
    "conv": MultiLinear(w_o="conv", kernel=3),
    "full": MultiLinear(w_o="full", length=N),
    "decay, full core": MultiLinear("decay", "full", terms=2),
    "conv, full core": MultiLinear("conv", "full", kernel=4),
    "full, full core": MultiLinear("full", "full", length=N + 3),
}


def variants(name: str) -> Iterator[tuple[str, Attention]]:
    """A kernel with its defaults, and with each other option of each choice, where it can."""
    yield name, named(name)()
    for field in fields(named(name)):
        for option in (o for o in field.metadata.get("choices", ()) if o != field.default):
            with suppress(ValueError):  # it needs another choice too
                yield f"{name} {field.name} {option}", named(name)(**{field.name: option})


OTHERS = sorted(set(NAMES) - {kernel.name for kernel in CHOSEN.values()})
KERNELS = CHOSEN | {key: kernel for name in OTHERS for key, kernel in variants(name)}
CAUSAL = [name for name, kernel in KERNELS.items() if kernel.causal]
STREAMS = [name for name in CAUSAL if KERNELS[name].length is None]  # else the state is the text
WAYS = [(name, False) for name in KERNELS] + [(name, True) for name in CAUSAL]

every = pytest.mark.parametrize("name", KERNELS)
both_ways = pytest.mark.parametrize(("name", "causal"), WAYS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of two chunks and of few rows, so that these lengths need several."""
    monkeypatch.setattr(_blocks, "BLOCK", 16)
    monkeypatch.setattr(_blocks, "STATE", 4 * D * D)
    monkeypatch.setattr(_blocks, "NARROW", D)


def width_of(name: str) -> int:
    return 32 if name == "thin" else D


def drawn(name: str, n: int = N, dtype=torch.float64, grad: bool = False):
    """q, k, v (B, H, n, D) and learned tensors, none of them as at the start."""
    torch.manual_seed(0)
    d = width_of(name)
    qkv = [torch.randn(B, H, n, d, dtype=dtype) + 0.3 for _ in range(3)]
    made = KERNELS[name].initial(H, d, max(E, d)).items()
    t = {k: (x + 0.1 * torch.randn_like(x)).to(dtype) for k, x in made}
    for x in (*qkv, *t.values()):
        x.requires_grad_(grad)
    return qkv, t


def ragged(n: int) -> Tensor:
    """(B, n): two paddings before the first text, three after the second (where there is room)."""
    real = torch.ones(B, n, dtype=torch.bool)
    if n > 5:
        real[0, :2] = real[1, -3:] = False
    return real


def gradients(out: Tensor, real: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape) * real[..., None]
    found = torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def apart(x: Tensor, y: Tensor) -> float:
    """The largest difference, relative to the largest of y."""
    x, y = x.detach(), y.detach()
    return float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))


@both_ways
@pytest.mark.parametrize("n", [1, 8, N])
@pytest.mark.parametrize("padded", [False, True])
def test_fast_is_naive_forward_and_gradients(name, causal, n, padded):
    qkv, t = drawn(name, n, grad=True)
    kernel, real = KERNELS[name], ragged(n)
    found = [way(*qkv, t, real if padded else None, causal) for way in (kernel.apply, kernel.naive)]
    assert found[0].shape == (B, n, kernel.out_features(H, width_of(name), E))
    assert apart(*(x * real[..., None] for x in found)) < 1e-11
    with torch.no_grad():
        plain = kernel.apply(*qkv, t, real if padded else None, causal)
    assert apart(*(x * real[..., None] for x in (plain, found[1]))) < 1e-11
    fast, slow = (gradients(x, real, [*qkv, *t.values()]) for x in found)
    for f, s in zip(fast, slow, strict=True):
        assert torch.isfinite(f).all()
        assert (f - s).abs().max() <= 1e-10 * s.abs().max() + 1e-12


@both_ways
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_narrow_dtype_is_accumulated_in_float32(name, causal, dtype, tolerance):
    """bfloat16 has 8 bits: what is lost is its rounding of the inputs and of the result."""
    qkv, t = drawn(name, dtype=dtype)
    out = KERNELS[name].apply(*qkv, t, None, causal)
    assert out.dtype == dtype
    wide = [x.double() for x in qkv], {k: x.double() for k, x in t.items()}
    assert apart(out.double(), KERNELS[name].naive(*wide[0], wide[1], None, causal)) < tolerance
    with torch.autocast("cpu", torch.bfloat16):  # does not narrow what is inside
        inside = KERNELS[name].apply(*(x.float() for x in qkv), t, None, causal)
    assert inside.dtype == torch.float32
    assert apart(inside.double(), KERNELS[name].naive(*wide[0], wide[1], None, causal)) < 1e-4


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_learned_tensors_follow_the_dtype_of_q(name, causal, dtype):
    qkv, _ = drawn(name, dtype=dtype)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    _, t = drawn(name, dtype=other)
    out = KERNELS[name].apply(*qkv, t, None, causal)
    assert out.dtype == dtype
    wide = [x.double() for x in qkv], {k: x.double() for k, x in t.items()}
    assert apart(out.double(), KERNELS[name].naive(*wide[0], wide[1], None, causal)) < 1e-5


@both_ways
@pytest.mark.parametrize("at", ["start", "end"])
def test_padding_does_not_leak(name, causal, at):
    (q, k, v), t = drawn(name, grad=True)
    kernel, real = KERNELS[name], torch.ones(B, N, dtype=torch.bool)
    some = slice(4, N) if at == "start" else slice(0, N - 4)
    real[:] = False
    real[:, some] = True
    with torch.no_grad():
        q[:, :, ~real[0]] = 50.0
        v[:, :, ~real[0]] = -70.0
    out = kernel.apply(q, k, v, t, real, causal)
    assert torch.isfinite(out).all()
    alone = kernel.apply(*(x[:, :, some] for x in (q, k, v)), t, None, causal)
    assert apart(out[:, some], alone) < 1e-10
    found = torch.autograd.grad(out[:, some].square().sum(), (k, v))
    assert all(g[:, :, ~real[0]].abs().max() == 0 for g in found)


def test_a_text_of_padding_only_is_finite():
    for name, causal in WAYS:
        qkv, t = drawn(name, grad=True)
        out = KERNELS[name].apply(*qkv, t, torch.zeros(B, N, dtype=torch.bool), causal)
        found = torch.autograd.grad(out.sum(), [*qkv, *t.values()], allow_unused=True)
        assert all(torch.isfinite(x).all() for x in (out, *found) if x is not None), name


@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_does_not_leak_and_the_past_is_seen(name):
    (q, k, v), t = drawn(name)
    before = KERNELS[name].apply(q, k, v, t, None, True)
    for token in (0, 7, 8, N - 1):
        changed = [x.clone() for x in (q, k, v)]
        for x in changed:
            x[:, :, token] += 1.0
        moved = (KERNELS[name].apply(*changed, t, None, True) - before).abs().amax(-1)
        assert moved[:, :token].eq(0).all()
        assert moved[:, token].gt(1e-6).all()
        assert token == N - 1 or moved[:, token + 1].gt(1e-6).all()


@every
def test_an_encoder_sees_both_sides(name):
    (q, k, v), t = drawn(name)
    before = KERNELS[name].apply(q, k, v, t)
    k[:, :, 10] += torch.randn_like(k[:, :, 10])  # one number for all would not change a softmax
    v[:, :, 10] += 1.0
    moved = (KERNELS[name].apply(q, k, v, t) - before).abs().amax(-1).gt(1e-9)
    assert moved[:, :10].any(1).all() and moved[:, 11:].any(1).all()
    assert moved.all() or name in OTHERS or name.startswith("conv")


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("pieces", [[N], [1] * N, [8, 8, 5], [5, 1, 15]], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_a_stream_is_the_whole(name, pieces, padded):
    (q, k, v), t = drawn(name)
    real = torch.ones(B, N, dtype=torch.bool)
    real[0, :6] = not padded
    whole = KERNELS[name].apply(q, k, v, t, real, True)
    state, out, sizes, start = None, [], set(), 0
    for piece in pieces:
        now = slice(start, start + piece)
        cut = (x[:, :, now] for x in (q, k, v))
        y, state = KERNELS[name].stream(*cut, t, state, real[:, now])
        sizes.add(tuple(x.numel() for x in state.values()))
        assert all(len(x) == B for x in state.values())  # so that beams can be picked
        out.append(y)
        start += piece
    assert apart(torch.cat(out, 1) * real[..., None], whole * real[..., None]) < 1e-10
    assert len(sizes) == 1


@both_ways
def test_gradients_reach_every_learned_tensor(name, causal):
    qkv, t = drawn(name, grad=True)
    out = KERNELS[name].apply(*qkv, t, None, causal)
    for x in torch.autograd.grad(out.square().sum(), [*qkv, *t.values()]):
        assert x.abs().max() > 1e-9
