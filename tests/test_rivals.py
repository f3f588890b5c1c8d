"""Guards `--method auto`: rivals of the SVD are ruled out where they cannot win, or for a while."""

import pytest
import torch
from conftest import pico
from hypothesis import given
from hypothesis import strategies as st
from test_laws import covariance, few, weight

from tlmtool.compression.compress import compress
from tlmtool.compression.rivals import Rivals
from tlmtool.compression.weighing import Weighed, spectrum_of
from tlmtool.decompositions import NAMES, candidates, named
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD, blind_losses
from tlmtool.decompositions.tucker import Tucker

SIZES = st.sampled_from([(24, 30), (30, 24), (16, 16)])


def weighed(size: tuple[int, int], seed: int, both: bool = True) -> Weighed:
    o, i = size
    metrics = covariance(i, seed), covariance(o, seed + 1) if both else None
    return Weighed("site", weight(o, i, seed, torch.float64), *metrics)


@pytest.mark.parametrize("name", NAMES)
@given(size=SIZES, rank=st.integers(1, 3), seed=st.integers(0, 9))
@few
def test_no_factors_have_a_higher_matrix_rank_than_they_say(name, size, rank, seed):
    d = named(name)(rank)
    w = weight(*size, seed, torch.float64)
    assert torch.linalg.matrix_rank(d.reconstruct(d.decompose(w)), rtol=1e-9) <= d.reach(*size)


@given(size=SIZES, rank=st.integers(1, 12), seed=st.integers(0, 9), both=st.booleans())
@few
def test_the_loss_that_a_spectrum_tells_is_that_of_the_factors(size, rank, seed, both):
    each = weighed(size, seed, both)
    known = spectrum_of(each)
    assert each.loss(SVD(rank)) == pytest.approx(known.lost(rank), rel=1e-6)
    assert each.loss(SVD(min(size))) <= 1e-9 * known.lost(0)


@given(size=SIZES, rank=st.integers(1, 12), seed=st.integers(0, 9))
@few
def test_blind_losses_are_those_of_an_svd_that_does_not_see_the_output_metric(size, rank, seed):
    each = weighed(size, seed)
    blind = SVD(rank)
    off = each.weight - blind.reconstruct(blind.decompose(each.weight, each.metric))
    loss = float((each.output_metric @ off @ each.metric * off).sum())
    assert float(blind_losses(*each[1:4])[rank:].sum()) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("both", [True, False])
@given(size=SIZES, share=st.floats(0.1, 0.9), seed=st.integers(0, 9))
@few
def test_what_is_ruled_out_by_its_rank_would_lose(both, size, share, seed):
    """The first rule is exact: a trial of the rival never gives less than the SVD."""
    each, (o, i) = weighed(size, seed, both), size
    svd = SVD(max(1, int(share * o * i / (o + i))))
    known = spectrum_of(each)
    for rival in (BTD(2, blocks=2), Tucker(3), BTD(1, blocks=4)):
        if rival.reach(o, i) <= svd.rank:
            assert each.loss(rival) >= known.lost(svd.rank) * (1 - 1e-6)
            assert Rivals().best([svd, rival], each, "query", known) == svd


class Tried(BTD):
    """Counts its trials, which lose: its factors are zero."""

    count = 0

    def reach(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def rough(self):
        return self

    def decompose(self, weight, metric=None, output_metric=None):
        type(self).count += 1
        found = super().decompose(weight, metric)
        return {k: 0 * f for k, f in found.items()}


def test_a_rival_that_loses_clearly_is_asked_again_ever_later():
    rivals, asked = Rivals(), []
    each = weighed((24, 30), 0, both=False)
    known = spectrum_of(each)
    for k in range(16):
        before = Tried.count
        assert rivals.best([SVD(6), Tried(2)], each, "query", known) == SVD(6)
        asked += [k] if Tried.count > before else []
    assert asked == [0, 2, 6, 14]
    before = Tried.count
    rivals.best([SVD(6), Tried(2)], each, "value", known)
    assert Tried.count == before + 1  # another role is asked for itself


def test_a_rival_that_wins_is_asked_at_the_next_site_again():
    true = BTD(2, blocks=4, modes=(4, 6))
    draw = torch.Generator().manual_seed(0)
    factors = {k: torch.randn(*s, generator=draw).double() for k, s in true.shapes(24, 30).items()}
    exact, rivals = Weighed("site", true.reconstruct(factors)), Rivals()
    found = [SVD(true.parameters(24, 30) // 54), true]
    for _ in range(3):
        assert rivals.best(found, exact, "query", spectrum_of(exact)) == true


def test_a_weight_without_energy_or_without_loss_goes_to_the_svd():
    for w in (
        torch.zeros(24, 30).double(),
        SVD(5).reconstruct(SVD(5).decompose(weight(24, 30).double())),
    ):
        each = Weighed("site", w)
        assert Rivals().best([SVD(6), Tried(2)], each, "query", spectrum_of(each)) == SVD(6)


def test_auto_repeats_and_its_candidates_are_those_of_the_registry():
    plans = [
        compress(pico("bert"), keep=0.4, sites="attention,ffn", dry_run=True).plan for _ in "ab"
    ]
    assert plans[0] == plans[1]
    assert {d.name for d in plans[0].values()} <= {*candidates(weighed=False)}
