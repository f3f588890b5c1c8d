"""Guards dimension-wise attention beyond the laws: its choices, start, mixer, memory and FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.attention import _prefix
from tlmtool.attention.dimensionwise import START, DimensionWise

H, D = 3, 4


def drawn(kernel: DimensionWise):
    """q, k, v (2, H, 21, D) and learned tensors, in float64."""
    torch.manual_seed(0)
    qkv = [torch.randn(2, H, 21, D, dtype=torch.float64) for _ in range(3)]
    return qkv, {k: x.double() for k, x in kernel.initial(H, D, H * D).items()}


def apart(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).abs().max() / y.abs().max())


@pytest.mark.parametrize("way", ["apply", "naive", "stream"])
def test_softmax_in_a_decoder_says_why_not(way):
    (q, k, v), t = drawn(DimensionWise(f="softmax"))
    more = () if way == "stream" else (None, True)
    said = r"softmax.* separate .*decoder takes 'cosine', 'scale' or 'features'"
    with pytest.raises(ValueError, match=said):
        getattr(DimensionWise(f="softmax"), way)(q, k, v, t, *more)


def test_a_rank_above_the_width_of_a_head_is_refused():
    with pytest.raises(ValueError, match="rank 9 is above 8, the width of a head"):
        DimensionWise(rank=9).initial(H, 8, 24)


@pytest.mark.parametrize("causal", [False, True])
def test_a_cosine_is_bounded_and_free_of_the_scale_of_q_and_k(causal):
    """|f(S)| <= t, so that |O[j]| <= t sum_m |W[j, m] v[m]|, whatever q and k are."""
    (q, k, v), t = drawn(DimensionWise())
    q, k = 1e3 * q, 1e3 * k  # EPS is of sums of squares of order 1
    out, scaled = (DimensionWise().apply(s * q, k / s, v, t, None, causal) for s in (1, 9))
    bound = torch.einsum("hjm,bhim->bihj", t["kernel"][:, 0].abs(), v.abs())
    assert (scaled.abs() <= (bound * t["temperature"][:, None]).flatten(2) * (1 + 1e-9)).all()
    assert apart(out, scaled) < 1e-3


@pytest.mark.parametrize("rank", [None, 4])
def test_at_the_start_the_output_is_a_known_part_of_v_at_every_place(rank):
    """START within a factor of 2, for columns of q and k that are random maps of D features."""
    torch.manual_seed(0)
    n, d = 256, 16
    x = torch.randn(8, 4, n, d)
    q, k = (x @ torch.randn(4, d, d) for _ in range(2))
    v, kernel = torch.randn(8, 4, n, d), DimensionWise(rank=rank)
    t = kernel.initial(4, d, 64)
    size = kernel.apply(q, k, v, t, None, True).square().mean((0, 2)).sqrt() / START
    assert size.min() > 0.5 and size.max() < 2
    assert 0.5 < kernel.apply(q, k, v, t).std() / START < 2
    t = kernel.initial(4, d, 64, fitted=True)
    assert 0.5 < kernel.apply(q, k, v, t).std() < 2


def test_tokens_that_all_look_alike_mix_by_the_mixer_alone():
    """With W at 0 only the convolution is left: the last w tokens in a decoder, in their order."""
    kernel = DimensionWise(kernels=3, mixer=4)
    (q, k, v), t = drawn(kernel)
    t["kernel"].zero_()
    out = kernel.apply(q, k, v, t, None, True).unflatten(-1, (H, 3, D))
    taps = t["mixer"]  # (H, c, D, w)
    expected = sum(v[:, :, 9 - 3 + i, None] * taps[..., i] for i in range(4))
    assert apart(out[:, 9], expected) < 1e-12


@pytest.mark.parametrize(("width", "first"), [(5, -2), (4, -1), (2, 0), (1, 0)])
def test_the_mixer_of_an_encoder_looks_to_both_sides(width, first):
    """Of w tokens (w - 1) // 2 before, w // 2 after, nothing beyond the ends."""
    kernel = DimensionWise(mixer=width)
    (q, k, v), t = drawn(kernel)
    t["kernel"].zero_()
    for way in (kernel.apply, kernel.naive):
        out = way(q, k, v, t).unflatten(-1, (H, D))
        for i in (0, 9, 20):
            at = [(j, i + first + j) for j in range(width) if 0 <= i + first + j < 21]
            expected = sum(v[:, :, place] * t["mixer"][:, 0, :, j] for j, place in at)
            assert apart(out[:, i], expected) < 1e-12


def test_the_memory_of_a_long_text_holds_no_state_of_each_token():
    """The largest tensor that a pass makes or keeps for the backward pass, against N D^2 of S."""
    n, kept = 512, []
    q, k, v = (torch.randn(1, 2, n, 32, requires_grad=True) for _ in range(3))
    t = {k: x.requires_grad_() for k, x in DimensionWise().initial(2, 32, 64).items()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        DimensionWise().apply(q, k, v, t, None, True)
    assert max(kept) <= 2 * n * 32


@pytest.mark.parametrize("f", ["cosine", "scale"])
@pytest.mark.parametrize("n", [13, 40, 64, 500])  # 2, 5, 8 chunks; two ragged blocks of 32
def test_states_added_up_for_two_threads_are_those_of_one(f, n, monkeypatch):
    """Tests run with one thread each, which adds the states up in one row of steps."""
    torch.manual_seed(0)
    kernel = DimensionWise(f=f)
    leaves = [torch.randn(2, H, n, D, dtype=torch.float64) for _ in range(3)]
    t = {k: x.double() for k, x in kernel.initial(H, D, H * D).items()}
    leaves = [x.requires_grad_() for x in (*leaves, t["kernel"])]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = []
    for way in (kernel.apply, kernel.naive):
        out = way(*leaves[:3], t, None, True)
        found.append([out.detach(), *torch.autograd.grad((out**3).sum(), leaves)])
    assert max(apart(x, y) for x, y in zip(*found, strict=True)) < 1e-9


def test_the_counter_sees_inside_the_operator():
    """N C D^2 of pairs, and twice N D^2 of states, both ways round: all of it by hand."""
    q = torch.randn(1, 4, 32, D)
    with FlopCounterMode(display=False) as counter:
        _prefix.prefix(q, q, q, torch.randn(4, D, D), None, None)
    plain = 2 * 4 * 32 * D * D * (9 / 2 + 2)
    assert counter.get_total_flops() == plain
    with FlopCounterMode(display=False) as counter:
        _prefix.prefix(q, q, q, torch.randn(4, D, D), None, 1e-4)
    assert counter.get_total_flops() == plain + 2 * 4 * 32 * 16 * 2 * D  # squares of q and k
