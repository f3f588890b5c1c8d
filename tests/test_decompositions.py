"""Guards what holds of one decomposition only: optima, special cases, and tensorly's results."""

import json
import sys
import types
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_laws import covariance, error, few, sizes, weight

from tlmtool import decompositions
from tlmtool.decompositions import Decomposition, from_dict, named
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.cp import CP
from tlmtool.decompositions.mpo import MPO
from tlmtool.decompositions.svd import SVD, spectrum
from tlmtool.decompositions.tucker import Tucker

FIELDS = [BTD(2, blocks=3, modes=(3, 4)), MPO(4, modes=((3, 2, 2), (4, 3, 2))), MPO(order=2)]


@pytest.mark.parametrize("d", FIELDS, ids=str)
def test_fields_come_back_out_of_json(d):
    kept = json.loads(json.dumps(d.to_dict()))
    assert from_dict(kept) == d and hash(from_dict(kept)) == hash(d)


def test_modes_of_an_mpo_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"(?s)5, 2.*12|12.*5, 2"):
        MPO(2, modes=((5, 2), (4, 6))).shapes(12, 24)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_file_defines_one_decomposition(monkeypatch, classes):
    module = types.ModuleType("tlmtool.decompositions.toy")
    for k in range(classes):
        made = type(f"Toy{k}", (Decomposition,), {"__module__": module.__name__})
        setattr(module, made.__name__, made)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(decompositions, "NAMES", (*decompositions.NAMES, "toy"))
    with pytest.raises(TypeError, match=rf"toy\.py defines {classes} public subclasses"):
        named("toy")


def test_full_rank_reproduces_with_blocks_heads_and_units():
    w = weight(12, 24)
    for d in (
        BTD(blocks=3, modes=(3, 4)),
        Tucker(modes=(4, 3)),
        MPO(order=1),
        MPO(order=2),
        MPO(modes=((12, 1, 1), (1, 2, 12))),
    ):
        assert error(w, d) <= 1e-5, d


def test_cp_is_exact_where_it_can_be():
    """A documented exception: not exact in general. A weight that is of CP rank 3 is found."""
    found = CP(3, modes=(4, 6)).reconstruct(CP(3, modes=(4, 6)).decompose(weight(24, 15)))
    assert error(found, CP(3, modes=(4, 6))) <= 1e-3
    assert error(weight(1, 15), CP()) <= 1e-5 and error(weight(24, 1), CP(1, (1, 24))) <= 1e-5


def test_a_metric_that_is_none_is_refused():
    for metric in (-torch.eye(24), torch.full((24, 24), float("nan"))):
        with pytest.raises(ValueError, match="not positive semi-definite"):
            SVD(3).decompose(weight(12, 24), metric)


@pytest.mark.parametrize("blocks", [0, -1])
def test_blocks_out_of_range(blocks):
    with pytest.raises(ValueError, match=f"blocks {blocks} is below 1"):
        BTD(2, blocks=blocks).shapes(12, 24)


@given(size=sizes, share=st.floats(0, 1), seed=st.integers(0, 9))
@few
def test_weighted_svd_is_the_analytic_optimum(size, share, seed):
    w, c = weight(*size, seed, torch.float64), covariance(size[1], seed)
    rank = 1 + int(share * (min(size) - 1))
    values, vectors = torch.linalg.eigh(c)
    half = vectors * values.sqrt() @ vectors.T  # C^(1/2)
    sigma = torch.linalg.svd(w @ half)[1]
    best = float(sigma[rank:].square().sum() / sigma.square().sum()) ** 0.5
    assert error(w, SVD(rank), c, by=c) == pytest.approx(best, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(spectrum(w, c).sqrt(), sigma, rtol=1e-4, atol=1e-6 * sigma[0])


@given(size=sizes, seed=st.integers(0, 9))
@few
def test_svd_is_the_optimum(size, seed):
    w = weight(*size, seed, torch.float64)
    for rank in range(1, min(size) + 1):
        sigma = torch.linalg.svd(w)[1]
        best = float(sigma[rank:].square().sum() / sigma.square().sum()) ** 0.5
        assert error(w, SVD(rank)) == pytest.approx(best, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("metric", [False, True])
def test_btd_of_one_block_is_tucker(rank, metric):
    w, c = weight(24, 30), covariance(30) if metric else None
    one, tucker = BTD(rank, blocks=1, modes=(4, 6)), Tucker(rank, modes=(4, 6))
    assert one.parameters(24, 30) == tucker.parameters(24, 30)
    assert error(w, one, c, by=c) == pytest.approx(error(w, tucker, c, by=c), rel=0.02)


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_btd_of_rank_one_is_cp(blocks):
    w = weight(24, 30)
    btd, cp = BTD(1, blocks=blocks, modes=(4, 6)), CP(blocks, modes=(4, 6))
    assert btd.parameters(24, 30) == cp.parameters(24, 30) + blocks  # the cores, of one number
    factors = btd.decompose(w)
    columns = {k: factors[k][..., 0].T for k in "abc"}
    columns["a"] = columns["a"] * factors["core"].flatten()
    torch.testing.assert_close(cp.reconstruct(columns), btd.reconstruct(factors))
    assert error(w, btd) == pytest.approx(error(w, cp), rel=0.1)


def test_more_blocks_never_hurt():
    w = weight(24, 30)
    errors = [error(w, BTD(3, blocks=p, modes=(4, 6))) for p in (1, 2, 4, 8)]
    assert all(later < before for before, later in pairwise(errors))


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    ("outs", "ins"), [((2, 3, 4), (5, 3, 2)), ((3, 2, 2, 2), (2, 3, 5, 1)), ((4, 1, 6), (5, 1, 6))]
)
def test_a_truncated_mpo_is_the_tt_svd(outs, ins, decay):
    """Against tensorly's, on weights whose singular values fall between every pair of cores."""
    from tensorly import backend_context
    from tensorly.decomposition import tensor_train_matrix
    from tensorly.tt_matrix import tt_matrix_to_tensor

    modes, order = (outs, ins), len(outs)
    full, draw = MPO(order=order, modes=modes), torch.Generator().manual_seed(0)
    cores = {
        k: torch.randn(s, generator=draw).double() * torch.arange(1, s[3] + 1) ** -decay
        for k, s in full.shapes(24, 30).items()
    }
    for w in (full.reconstruct(cores), weight(24, 30, 1, torch.float64)):
        for rank in (1, 2, 4, 9):
            with backend_context("pytorch"):
                theirs = tensor_train_matrix(w.reshape(*outs, *ins), [1, *[rank] * (order - 1), 1])
                best = float((tt_matrix_to_tensor(theirs).reshape(24, 30) - w).norm() / w.norm())
            mine = MPO(rank, order=order, modes=modes)
            assert error(w, mine) <= best * (1 + 1e-6) + 1e-12
            norms = [float(f.norm()) for f in mine.decompose(w).values() if f.shape[1:3] != (1, 1)]
            assert max(norms) <= 20 * min(norms)  # shared out, for low precision and training


def test_tucker_and_btd_are_no_worse_than_tensorly():
    import tensorly
    from tensorly.decomposition import parafac, tucker

    w = weight(24, 30, dtype=torch.float64)
    with tensorly.backend_context("pytorch"):
        tensor = w.reshape(4, 6, 30)
        theirs = tucker(tensor, rank=[3, 3, 3], init="svd", n_iter_max=50).to_tensor()
        cp = parafac(tensor, rank=5, init="svd", n_iter_max=30).to_tensor()
    off = lambda t: float((tensor - t).norm() / tensor.norm())  # noqa: E731
    assert error(w, Tucker(3, modes=(4, 6))) <= off(theirs) * 1.01
    assert error(w, CP(5, modes=(4, 6))) <= off(cp) * 1.05
