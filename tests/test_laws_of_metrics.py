"""Guards the laws of metrics: what a decomposition may do with the covariance of its inputs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_laws import ALONE, EVERY, EXACT, covariance, error, few, highest, sizes, weight
from torch import Tensor

from tlmtool.decompositions import named

WEIGHED = [name for name in ALONE if named(name).takes_metric]


def test_full_rank_survives_a_singular_metric():
    x = weight(3, 24, 1, torch.float64)  # three texts, 24 inputs
    seen = torch.cat([torch.ones(8), torch.zeros(16)]).double()  # tokens that no text holds
    for name in WEIGHED:
        for metric in (x.T @ x, seen, torch.zeros(24), torch.zeros(24, 24)):
            factors = named(name)(4).decompose(weight(12, 24), metric)
            assert all(torch.isfinite(f).all() for f in factors.values()), name
            if name in EXACT:
                assert error(weight(12, 24), named(name)(), metric) <= 1e-5, name


@pytest.mark.parametrize("name", WEIGHED)
@given(size=sizes, share=st.floats(0, 1), seed=st.integers(0, 9), full=st.booleans())
@few
def test_a_metric_only_lowers_the_error_measured_in_it(name, size, share, seed, full):
    w, c = weight(*size, seed), covariance(size[1], seed)
    c = c if full else c.diagonal()
    d = named(name)(1 + int(share * (highest(name, *size) - 1)))
    slack = min(max(1e-6, named(name).slack), 0.005)
    assert error(w, d, c, by=c) <= error(w, d, None, by=c) + slack


@pytest.mark.parametrize("name", WEIGHED)
def test_a_metric_helps_much_where_inputs_differ(name):
    w, c = weight(24, 24), covariance(24)
    for metric in (c, c.diagonal()):
        d = named(name)(4)
        assert error(w, d, metric, by=metric) < 0.9 * error(w, d, None, by=metric)


@pytest.mark.parametrize("name", WEIGHED)
def test_a_diagonal_metric_is_that_full_one(name):
    w, c = weight(12, 24), covariance(24).diagonal()
    d = named(name)(3)
    full = d.reconstruct(d.decompose(w.double(), c.diag()))
    torch.testing.assert_close(
        d.reconstruct(d.decompose(w.double(), c)), full, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", [name for name in ALONE if name not in WEIGHED])
def test_what_takes_no_metric_refuses_one(name):
    for metric in (covariance(24), covariance(24).diagonal()):
        with pytest.raises(ValueError, match=rf"{name} cannot weigh its error by a metric"):
            named(name)(3).decompose(weight(12, 24), metric)


@EVERY
def test_an_output_metric_lowers_the_error_measured_in_it_or_is_refused(name):
    w, c, g = weight(12, 24), covariance(24), covariance(12, 1)
    if not named(name).takes_output_metric:
        with pytest.raises(ValueError, match="output metric"):
            named(name)(3).decompose(w, None, g)
        return
    d, half = named(name)(3), torch.linalg.cholesky(g)

    def off(*metrics: Tensor) -> float:
        delta = w.double() - d.reconstruct(d.decompose(w.double(), *metrics))
        return float((half.mT @ delta @ torch.linalg.cholesky(c)).norm())

    assert off(c, g) < 0.99 * off(c)
