"""Guards the laws of every decomposition: a new file in `decompositions/` is tested with no edit.

Those about metrics are in test_laws_of_metrics.py; what holds of one decomposition only is in
test_decompositions.py.
"""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tlmtool import decompositions
from tlmtool.decompositions import NAMES, Decomposition, from_dict, named

ALONE = [name for name in NAMES if named(name).alone]  # test_narrow.py has the other laws
EXACT = [name for name in ALONE if named(name).exact]
EVERY = pytest.mark.parametrize("name", ALONE)
sizes = st.tuples(*2 * [st.sampled_from([1, 2, 5, 6, 12, 15, 24])])
few = settings(max_examples=12, deadline=None, derandomize=True)


def weight(o: int, i: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    """A random W (O, I) whose singular values fall, as those of trained weights do."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    k = min(o, i)
    return ((draw(o, k) * torch.arange(1, k + 1) ** -0.7) @ draw(k, i)).to(dtype)


def covariance(i: int, seed: int = 0) -> Tensor:
    """C (I, I) of correlated inputs, some of them 100 times as large as others."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(4 * i, i, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(i, i, generator=generator, dtype=torch.float64)
    return (x * torch.logspace(0, -2, i)).T @ (x * torch.logspace(0, -2, i)) / len(x)


def error(w: Tensor, d: Decomposition, metric: Tensor | None = None, by: Tensor | None = None):
    """Relative error of d on W (found under `metric`), measured in the covariance `by`."""
    delta = w.double() - d.reconstruct({k: f.double() for k, f in d.decompose(w, metric).items()})
    c = torch.eye(w.shape[1], dtype=torch.float64) if by is None else by
    c = c.diag() if c.ndim == 1 else c
    size = lambda m: float(torch.einsum("oi,ij,oj->", m, c, m))  # noqa: E731
    return (max(size(delta), 0) / size(w.double())) ** 0.5


@cache
def highest(name: str, o: int, i: int) -> int:
    """The largest rank that (O, I) can have, found by asking."""
    for rank in range(1, o * i + 2):
        try:
            named(name)(rank).shapes(o, i)
        except ValueError:
            return rank - 1
    raise AssertionError(f"{name} takes rank {rank} of a weight ({o}, {i})")


def test_the_folder_is_the_registry():
    files = {file.stem for file in Path(decompositions.__file__).parent.glob("[!_]*.py")}
    assert set(NAMES) == files - {"base"} >= {"svd", "cp", "tucker", "btd", "mpo"}
    assert [named(name)().name for name in NAMES] == list(NAMES)
    with pytest.raises(ValueError, match=r"'qr'; known: .*btd.*svd"):
        named("qr")


@EVERY
@given(size=sizes, share=st.floats(0, 1), seed=st.integers(0, 9))
@few
def test_shapes_tell_the_truth_also_on_meta(name, size, share, seed):
    d = named(name)(1 + int(share * (highest(name, *size) - 1)))
    for made in (d, replace(d, rank=None)):
        factors = made.decompose(weight(*size, seed))
        assert {k: tuple(f.shape) for k, f in factors.items()} == made.shapes(*size)
        assert list(factors) == list(made.shapes(*size))
        assert all(torch.isfinite(f).all() for f in factors.values())
        assert made.parameters(*size) == sum(f.numel() for f in factors.values())
        assert made.reconstruct(factors).shape == size
        empty = {k: torch.empty(s, device="meta") for k, s in made.shapes(*size).items()}
        assert made.reconstruct(empty).shape == size
        for tokens in (1, 1000):
            x = torch.empty(tokens, 1, size[1], device="meta")
            assert made.apply(x, empty).shape == (tokens, 1, size[0])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factors_have_the_dtype_of_the_weight_and_no_graph(name, dtype):
    w = weight(12, 24, dtype=dtype).requires_grad_()
    for d in (named(name)(3), named(name)()):
        factors = d.decompose(w)
        for f in factors.values():
            assert f.dtype == dtype and f.device == w.device and f.is_contiguous()
            assert not f.requires_grad
        assert d.reconstruct(factors).dtype == d.apply(w[:2].detach(), factors).dtype == dtype


def examples(name: str) -> list[Decomposition]:
    """One of full rank, one of rank 2, and one with heads if it takes them."""
    cls = named(name)
    return [cls(), cls(2), *([cls(2, modes=(3, 4))] if cls.takes_heads else [])]


@EVERY
def test_from_dict_is_the_inverse_of_to_dict(name):
    for d in examples(name):
        kept = d.to_dict()
        assert from_dict(kept) == d == from_dict(json.loads(json.dumps(kept)))
        assert hash(from_dict(json.loads(json.dumps(kept)))) == hash(d)  # tuples again: it is a key
        assert kept["name"] == d.name and None not in kept.values()


@EVERY
@given(size=sizes, seed=st.integers(0, 9))
@few
def test_error_does_not_grow_with_rank(name, size, seed):
    w = weight(*size, seed)
    ranks = sorted({*range(1, highest(name, *size) + 1, 3), highest(name, *size)})
    errors = [error(w, named(name)(rank)) for rank in ranks]
    slack = max(1e-6, named(name).slack)  # iterative algorithms stop in local minima
    assert named(name).slack <= 0.05
    assert all(later <= before + slack for before, later in pairwise(errors))
    assert errors[-1] <= errors[0] + 1e-6 and errors[0] <= 1


@pytest.mark.parametrize("name", EXACT)
@given(size=sizes, seed=st.integers(0, 9))
@few
def test_full_rank_reproduces(name, size, seed):
    w = weight(*size, seed)
    assert error(w, named(name)()) <= 1e-5
    assert error(w, named(name)(highest(name, *size))) <= 1e-5
    if named(name).takes_metric:
        c = covariance(size[1], seed)
        assert error(w, named(name)(), c) <= 1e-5
        assert error(w, named(name)(), c.diagonal()) <= 1e-5


@EVERY
@given(size=sizes, share=st.floats(0, 1), seed=st.integers(0, 9))
@few
def test_apply_is_the_reconstructed_weight_in_both_branches(name, size, share, seed):
    o, i = size
    d = named(name)(1 + int(share * (highest(name, o, i) - 1)))
    for made in (d, replace(d, rank=None)):
        factors = {k: f.double() for k, f in made.decompose(weight(o, i, seed)).items()}
        w = made.reconstruct(factors)
        for shape in ((1, i), (2, 3, i), (700, i), (i,)):
            x = torch.randn(*shape, generator=torch.manual_seed(seed), dtype=torch.float64)
            y = made.apply(x, factors)
            assert y.shape == (*shape[:-1], o)
            torch.testing.assert_close(y, x @ w.T, rtol=1e-9, atol=1e-9)


@EVERY
def test_apply_takes_the_cheaper_way(name):
    """One token never rebuilds W; many tokens do at full rank, where factors are wide."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(d, tokens):
        factors = {k: torch.empty(s, device="meta") for k, s in d.shapes(64, 96).items()}
        with FlopCounterMode(display=False) as counter:
            d.apply(torch.empty(tokens, 96, device="meta"), factors)
        return counter.get_total_flops()

    assert flops(named(name)(2), 1000) < 2 * 1000 * 64 * 96  # thin factors beat the dense W
    exact = named(name)()
    assert flops(exact, 10_000) <= 2 * 10_000 * 64 * 96 * 1.4  # wide ones do not cost more


@EVERY
def test_gradients_reach_every_factor(name):
    for d in (named(name)(2), named(name)()):
        for tokens in (1, 700):
            factors = {k: f.requires_grad_() for k, f in d.decompose(weight(12, 24)).items()}
            d.apply(
                torch.randn(tokens, 24, generator=torch.manual_seed(0)), factors
            ).sum().backward()
            assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in factors.values())


@EVERY
@pytest.mark.parametrize("size", [(12, 24), (24, 12), (7, 7)])
def test_ranks_out_of_range_name_both_values(name, size):
    top = highest(name, *size)
    for rank in (0, -1):
        with pytest.raises(ValueError, match=rf"rank {rank} is below 1"):
            named(name)(rank).shapes(*size)
        with pytest.raises(ValueError, match=rf"rank {rank} is below 1"):
            named(name)(rank).decompose(weight(*size))
    for rank in (top + 1, 10**9):
        with pytest.raises(ValueError, match=rf"rank {rank} is above {top}\b"):
            named(name)(rank).shapes(*size)
    named(name)(top).shapes(*size)


@pytest.mark.parametrize("name", [name for name in NAMES if named(name).takes_heads])
def test_heads_that_do_not_fit_are_refused(name):
    with pytest.raises(ValueError, match=r"(?s)5, 2.*12|12.*5, 2"):
        named(name)(2, modes=(5, 2)).shapes(12, 24)
    heads = named(name)(2, modes=(3, 4))
    assert heads.shapes(12, 24) != named(name)(2, modes=(4, 3)).shapes(12, 24)


@EVERY
def test_a_zero_weight_stays_zero(name):
    for d in (named(name)(2), named(name)()):
        factors = d.decompose(torch.zeros(12, 24))
        assert all(torch.isfinite(f).all() for f in factors.values())
        assert d.reconstruct(factors).abs().max() <= 1e-6


@EVERY
def test_half_precision_loses_only_its_rounding(name):
    d, w = named(name)(4), weight(24, 30)
    for dtype, unit in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        exact = d.reconstruct({k: f.double() for k, f in d.decompose(w.to(dtype).float()).items()})
        found = d.reconstruct({k: f.double() for k, f in d.decompose(w.to(dtype)).items()})
        assert (exact - found).norm() <= 8 * unit * exact.norm()


@EVERY
@given(size=sizes, seed=st.integers(0, 9))
@few
def test_what_takes_lora_holds_the_sum(name, size, seed):
    made, w = named(name)(1), weight(*size, seed, torch.float64)
    factors = made.decompose(w)
    b, a = weight(size[0], 3, 1, torch.float64), weight(3, size[1], 2, torch.float64)
    if not made.takes_lora:
        with pytest.raises(NotImplementedError):
            made.plus(factors, b, a)
        return
    more, wider = made.plus(factors, b, a)
    assert {k: tuple(f.shape) for k, f in wider.items()} == more.shapes(*size)
    torch.testing.assert_close(more.reconstruct(wider), made.reconstruct(factors) + b @ a)
