"""Guards plans: which sites, which decomposition, which rank, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from torch import Tensor

from tlmtool.compression.candidates import Candidates, select
from tlmtool.compression.compress import compress
from tlmtool.compression.planning import Weighed, best
from tlmtool.decompositions import NAMES, candidates, named
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.decompositions.tucker import Tucker
from tlmtool.failure import Usage
from tlmtool.models.factorized import shape
from tlmtool.models.surgery import factorize, sites

BOTH = "attention,ffn"
QUERY = "encoder.layer.0.attention.self.query"
TEXTS = {"tokenizer": word_tokenizer(), "texts": [" ".join(WORDS), " ".join(WORDS[::-2])]}


def candidates_of(family: str, **more) -> Candidates:
    model = pico(family, **more)
    return Candidates(
        model, {s: r for s, r in sites(model).items() if r not in ("embedding", "other")}
    )


@pytest.mark.parametrize("name", [name for name in NAMES if named(name).alone])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_largest_is_within_its_budget_and_one_rank_more_is_not(name, family):
    known = candidates_of(family)
    for site in known.roles:
        for budget in (300, 700, 1000, 10**9):
            found = known.largest(site, name, budget)
            if found is None:
                assert known.size(site, known.make(site, name, 1)) > budget
                continue
            assert known.size(site, found) <= budget
            try:
                assert known.size(site, replace(found, rank=found.rank + 1)) > budget
            except Usage as error:  # it has the highest rank that there is
                assert f"rank {found.rank + 1} is above {found.rank}" in str(error)


@pytest.mark.parametrize("method", ["auto", *(name for name in NAMES if name != "svd")])
@pytest.mark.parametrize("how", ["greedy", "uniform"])
def test_keep_is_met_by_coarse_ranks(method, how):
    """What a site leaves of its budget the next one gets: the last leaves less than one rank."""
    known = candidates_of("bert")
    total = sum(o * i for o, i in map(known.shape, known.roles))
    text = TEXTS if method == "auto" or named(method).takes_metric else {}
    model, given = pico("bert"), {"sites": BOTH, "method": method, "allocate": how}
    plan = compress(model, keep=0.6, dry_run=True, **given, **text).plan
    more = {s: replace(d, rank=d.rank + 1) for s, d in plan.items()}
    rank = max(known.size(s, more[s]) - known.size(s, d) for s, d in plan.items())
    dense = (s for s in known.roles if s not in plan)
    size = sum(known.size(s, d) for s, d in plan.items())
    size += sum(o * i for o, i in map(known.shape, dense))
    assert 0.6 * total - max(rank, 80) < size <= 0.6 * total  # 80: a value of a 48 x 32


def test_energy_asks_each_site_alone():
    """A site gets what the fewest singular values that hold the energy cost, and no more."""
    known = candidates_of("bert")
    plan = compress(pico("bert"), energy=0.6, sites=BOTH, method="tucker", dry_run=True).plan
    for site in known.roles:
        values = torch.linalg.svdvals(known.model.get_submodule(site).weight.double()).square()
        rank = 1 + int((values.cumsum(0) < 0.6 * values.sum()).sum())
        assert plan[site] == known.largest(site, "tucker", rank * sum(known.shape(site)))


@pytest.mark.parametrize("true", [SVD(6), Tucker(5, modes=(4, 8)), BTD(2, blocks=4, modes=(4, 8))])
@pytest.mark.parametrize("weighed", [True, False])
def test_auto_takes_what_loses_least(true, weighed):
    """Of a weight that is itself a decomposition, that one: at this budget no other holds it."""
    known, draw = candidates_of("bert"), torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw).double()

    w = true.reconstruct({k: random(*s) for k, s in true.shapes(32, 32).items()})
    roots = [random(32, 32), random(32, 32)]
    c, g = (r @ r.T for r in roots) if weighed else (None, None)
    budget = true.parameters(32, 32)
    assert best(known, Weighed(QUERY, w, c, g), "auto", budget) == true
    noisy, errors = w + 0.5 * w.std() * random(32, 32), {}
    for name in candidates(weighed):
        rival = known.largest(QUERY, name, budget)
        metrics = (c, g if rival.takes_output_metric else None)
        off = noisy - rival.reconstruct(rival.decompose(noisy, *metrics))
        errors[rival] = float((roots[1].T @ off @ roots[0] if weighed else off).norm())
    chosen = best(known, Weighed(QUERY, noisy, c, g), "auto", budget)
    assert errors[chosen] <= 1.05 * min(errors.values())  # it chooses by rough factors


def test_a_budget_of_the_dense_weight_leaves_it_dense():
    known, query = candidates_of("bert"), Weighed(QUERY, torch.zeros(32, 32))
    assert best(known, query, "auto", 1024) is None
    assert best(known, query, "svd", 1023) == SVD(15)


def test_auto_chooses_among_those_that_say_so_simplest_first():
    automatic = {name for name in NAMES if named(name).automatic}
    weighed = {name for name in automatic if named(name).takes_metric}
    assert set(candidates(weighed=False)) == automatic
    assert set(candidates(weighed=True)) == weighed >= {"svd", "tucker", "btd"}
    assert sorted(("svd", "tucker", "btd"), key=candidates(True).index) == ["svd", "tucker", "btd"]


def test_what_would_be_larger_than_dense_stays_dense_with_a_reason():
    """svd at rank 16: as large as 32 x 32, smaller than 48 x 32."""
    model = pico("bert")
    outcome = compress(model, rank=16, method="svd", sites=BOTH)
    assert {shape(model.get_submodule(s)) for s in outcome.left_dense} == {(32, 32)}
    assert {shape(model.get_submodule(s)) for s in outcome.plan} == {(48, 32), (32, 48)}
    assert outcome.left_dense[QUERY] == "svd at rank 16 would hold 1,024 parameters, W holds 1,024"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rank": 16, "method": "svd"}, "no site would get smaller .* 1,024"),
        ({"rank": 33, "method": "svd"}, r"rank 33 is above 32.*attention\.self\.query"),
        ({"rank": 40, "method": "tucker"}, r"rank 40 is above 32"),
        ({"energy": 1.0}, "no site would get smaller"),
        ({"keep": 0.01}, r"the sites named hold \d+ at rank 1: keep more"),
        ({"keep": float("nan")}, "shares above 0 and up to 1, got nan"),
        ({"energy": 1.5}, "shares above 0 and up to 1, got 1.5"),
        ({"keep": 0.5, "allocate": "evenly"}, "'evenly'; known: greedy, uniform"),
        ({}, "exactly one of rank, keep and energy is needed, got 0"),
        ({"rank": 4, "keep": 0.5}, "exactly one .* got 2"),
        ({"rank": 4, "method": "qr"}, "unknown method 'qr'; known: auto, .*btd"),
        ({"keep": 0.5, "method": "qr"}, "unknown method 'qr'"),
        ({"rank": 4, "method": "auto"}, "needs a budget"),
        ({"rank": 4, "sites": "nothing.*"}, r"no site matches 'nothing\.\*'"),
        ({"rank": 4, "ignore": ["*"]}, "no site is left"),
        ({"rank": 4, "texts": ["the cat"]}, "need a tokenizer"),
        ({"rank": 4, "overrides": [SimpleNamespace(sites="*.zzz")]}, r"'\*\.zzz' matches none"),
        ({"keep": 0.5, "overrides": [SimpleNamespace(sites="*")]}, "go with rank"),
        ({"keep": 0.5, "method": "mpo", **TEXTS}, "no calibration text can weigh"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_touched(given, says):
    model, before = pico("bert"), pico("bert").state_dict()
    with pytest.raises(Usage, match=says):
        compress(model, **given)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_sites_that_no_text_reaches_are_fitted_without_it():
    """They become what they become without text, and a warning counts them."""
    config = {"is_decoder": True, "add_cross_attention": True}
    for budget in ({"rank": 4, "method": "svd"}, {"keep": 0.5}):
        model, bare = pico("bert", **config), pico("bert", **config)
        outcome = compress(model, **budget, **TEXTS)
        told = [text for text in outcome.warnings if "without text" in text]
        assert len(told) == 1 and told[0].startswith("8 sites such as encoder.layer.0.crossattent")
        factorize(bare, {s: d for s, d in outcome.plan.items() if "crossattention" in s})
        both = (dict(each.base_model.named_parameters()) for each in (model, bare))
        first, second = ({k: v for k, v in x.items() if "crossattention" in k} for x in both)
        assert first.keys() == second.keys() and len(outcome.plan) == 16
        assert all(torch.allclose(v, second[k]) for k, v in first.items())
    assert not any("without text" in text for text in compress(pico("bert"), rank=2).warnings)


def test_few_parameters_are_warned_of():
    outcome = compress(pico("bert"), rank=1, method="svd", sites=BOTH)
    (told,) = outcome.warnings  # 64 of 1024, 80 of 1536
    assert " keeps 0.052 of its parameters, the least of" in told
    assert f"of {len(outcome.plan)} sites that keep less than 0.1" in told
    assert not compress(pico("bert"), rank=2, method="svd", sites=BOTH).warnings  # 0.104 or more


def override(glob: str, **more) -> SimpleNamespace:
    return SimpleNamespace(**{"sites": glob, "method": None, "rank": None, "blocks": None, **more})


def test_later_overrides_win():
    overrides = [
        override("*.attention.*", rank=5),
        override("*.query", method="btd", rank=2, blocks=3),
        override("encoder.layer.1.*.query", rank=1),
    ]
    plan = compress(pico("bert"), rank=7, method="svd", sites=BOTH, overrides=overrides).plan
    assert len(plan) == 12
    for site, found in plan.items():
        if site.endswith("query"):
            assert found == BTD(2 if ".0." in site else 1, blocks=3, modes=(4, 8))
        else:
            assert found == SVD(5 if ".attention." in site else 7)


def test_groups_globs_and_ignore_select_in_the_order_of_the_model():
    model = pico("gpt2")
    known = sites(model)
    assert select(model, ["all"]) == known
    assert set(select(model, ["attention"]).values()) == {"qkv", "output"}
    assert set(select(model, ["ffn", "embedding"]).values()) == {"up", "down", "embedding"}
    found = select(model, ["h.*.mlp.c_fc", "h.0.*"], ["*.attn.c_proj", "h.1.attn.*"])
    expected = {s for s in known if s.startswith("h.0.") or s.endswith("c_fc")}
    assert list(found) == [s for s in known if s in expected - {"h.0.attn.c_proj"}]
