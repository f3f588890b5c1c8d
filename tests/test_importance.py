"""Importance: eq. 6 and eq. 7 against their definitions; a selection takes what it should."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tlmtool.training.importance import Scores, chosen


def linear_loss(weights, g):
    """A loss that is linear in each W, where the first order (eq. 7) is exact (eq. 6)."""
    return sum((w * g[site]).sum() for site, w in weights.items())


def test_taylor_is_zero_out_where_the_loss_is_linear():
    torch.manual_seed(0)
    weights = {f"s{i}": torch.nn.Parameter(torch.randn(3, 4)) for i in range(3)}
    g = {site: torch.randn(3, 4) for site in weights}
    linear_loss(weights, g).backward()
    taylor, zero = Scores("taylor", weights), Scores("zero-out", weights)
    taylor.add()
    zero.zero_out(lambda: float(linear_loss(weights, g)))
    for site in weights:
        assert taylor.values[site] == pytest.approx(zero.values[site], rel=1e-4)


def test_absolute_values_are_added_over_steps_and_cleared():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    for kind, each in (("taylor", 4.0), ("fisher", 4.0)):
        scores = Scores(kind, {"s": weight})
        for sign in (1, -1):
            weight.grad = sign * torch.ones(2, 2)
            scores.add()
        assert scores.values == {"s": 2 * each}
        scores.clear()
        assert scores.values == {"s": 0.0}


def test_zeroing_out_puts_the_weight_back():
    weight = torch.nn.Parameter(torch.randn(2, 2))
    before = weight.detach().clone()
    Scores("zero-out", {"s": weight}).zero_out(lambda: float(weight.sum()))
    assert torch.equal(weight, before)


SITES = [f"{role}{layer}" for layer in range(5) for role in "qk"]
ROLES = {site: site[0] for site in SITES}


@given(st.lists(st.floats(0, 9), min_size=10, max_size=10), st.integers(1, 5), st.integers(1, 5))
def test_selections_take_the_best_of_each_group_never_twice_up_to_the_most(values, n, most):
    scores, taken = dict(zip(SITES, values, strict=True)), set()
    while found := chosen(scores, ROLES, taken, n, most):
        for role in "qk":
            group = [s for s in found if ROLES[s] == role]
            left = [s for s in SITES if ROLES[s] == role and s not in taken and s not in group]
            assert len(group) <= n and not taken & set(group)
            assert not group or all(scores[s] <= min(scores[g] for g in group) for s in left)
        taken |= set(found)
    assert all(sum(ROLES[s] == role for s in taken) == most for role in "qk")
