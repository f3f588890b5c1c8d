"""From flags to a plan: which sites, in which form, at which rank, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from torch import Tensor

from tlmtool.compression.compress import compress
from tlmtool.compression.planning import AUTO, Forms, best_form, select
from tlmtool.decompositions import NAMES
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.decompositions.tucker import Tucker
from tlmtool.failure import Usage
from tlmtool.models.factorized import shape
from tlmtool.models.surgery import sites

BOTH = "attention,ffn"
QUERY = "encoder.layer.0.attention.self.query"
TEXTS = {"tokenizer": word_tokenizer(), "texts": [" ".join(WORDS), " ".join(WORDS[::-2])]}


def forms_of(family: str, **more) -> Forms:
    model = pico(family, **more)
    return Forms(model, {s: r for s, r in sites(model).items() if r != "embedding"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_largest_form_is_within_its_budget_and_one_rank_more_is_not(name, family):
    forms = forms_of(family)
    for site in forms.roles:
        for budget in (300, 700, 1000, 10**9):
            found = forms.largest(site, name, budget)
            if found is None:
                assert forms.size(site, forms.make(site, name, 1)) > budget
                continue
            assert forms.size(site, found) <= budget
            try:
                assert forms.size(site, replace(found, rank=found.rank + 1)) > budget
            except Usage as error:  # it has the highest rank that there is
                assert f"rank {found.rank + 1} is above {found.rank}" in str(error)


@pytest.mark.parametrize("method", ["auto", "btd", "tucker", "cp", "mpo"])
@pytest.mark.parametrize("how", ["greedy", "uniform"])
def test_keep_is_met_by_forms_of_coarse_ranks(method, how):
    """What a form leaves of its budget the next one gets: the last leaves less than one rank."""
    forms = forms_of("bert")
    total = sum(o * i for o, i in map(forms.shape, forms.roles))
    text = TEXTS if method not in ("mpo", "btd") else {}
    model, given = pico("bert"), {"sites": BOTH, "method": method, "allocate": how}
    plan = compress(model, keep=0.6, dry_run=True, **given, **text).plan
    more = {s: replace(f, rank=f.rank + 1) for s, f in plan.items()}
    rank = max(forms.size(s, more[s]) - forms.size(s, f) for s, f in plan.items())
    dense = (s for s in forms.roles if s not in plan)
    size = sum(forms.size(s, f) for s, f in plan.items())
    size += sum(o * i for o, i in map(forms.shape, dense))
    assert 0.6 * total - max(rank, 80) < size <= 0.6 * total  # 80: a value of a 48 x 32


def test_energy_asks_each_site_alone():
    """A form gets what the fewest singular values that hold the energy cost, and no more."""
    forms = forms_of("bert")
    plan = compress(pico("bert"), energy=0.6, sites=BOTH, method="tucker", dry_run=True).plan
    for site in forms.roles:
        values = torch.linalg.svdvals(forms.model.get_submodule(site).weight.double()).square()
        rank = 1 + int((values.cumsum(0) < 0.6 * values.sum()).sum())
        assert plan[site] == forms.largest(site, "tucker", rank * sum(forms.shape(site)))


@pytest.mark.parametrize("form", [SVD(6), Tucker(5, modes=(4, 8)), BTD(2, blocks=4, modes=(4, 8))])
@pytest.mark.parametrize("weighed", [True, False])
def test_auto_takes_the_form_that_loses_least(form, weighed):
    """Of a weight that is itself of a form, that one: at this budget no other holds it."""
    forms, draw = forms_of("bert"), torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw).double()

    w = form.reconstruct({k: random(*s) for k, s in form.shapes(32, 32).items()})
    roots = [random(32, 32), random(32, 32)]
    c, g = (r @ r.T for r in roots) if weighed else (None, None)
    budget = form.parameters(32, 32)
    assert best_form(forms, QUERY, "auto", budget, w, c, g) == form
    noisy, errors = w + 0.5 * w.std() * random(32, 32), {}
    for name in AUTO:
        rival = forms.largest(QUERY, name, budget)
        metrics = (c, g if rival.takes_output_metric else None)
        off = noisy - rival.reconstruct(rival.decompose(noisy, *metrics))
        errors[rival] = float((roots[1].T @ off @ roots[0] if weighed else off).norm())
    chosen = best_form(forms, QUERY, "auto", budget, noisy, c, g)
    assert errors[chosen] <= 1.05 * min(errors.values())  # it chooses by rough factors


def test_a_budget_of_the_dense_weight_is_no_form():
    forms, w = forms_of("bert"), torch.zeros(32, 32)
    assert best_form(forms, QUERY, "auto", 1024, w, None, None) is None
    assert best_form(forms, QUERY, "svd", 1023, w, None, None) == SVD(15)


def test_a_form_larger_than_dense_stays_dense_with_a_reason():
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


def test_sites_that_no_text_reaches_are_refused():
    config = {"is_decoder": True, "add_cross_attention": True}
    model = pico("bert", **config)
    with pytest.raises(Usage, match=r"8 sites such as .*crossattention.* read nothing"):
        compress(model, rank=4, method="svd", **TEXTS)
    compress(model, rank=4, method="svd", ignore=["*crossattention*"], **TEXTS)
    assert len(compress(pico("bert", **config), rank=4, method="svd").plan) == 16


def test_few_parameters_are_warned_of():
    outcome = compress(pico("bert"), rank=1, method="svd", sites=BOTH)
    assert len(outcome.warnings) == len(outcome.plan)  # 64 of 1024, 80 of 1536
    assert f"{QUERY} keeps 0.062 of its parameters" in outcome.warnings
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
    for site, form in plan.items():
        if site.endswith("query"):
            assert form == BTD(2 if ".0." in site else 1, blocks=3, modes=(4, 8))
        else:
            assert form == SVD(5 if ".attention." in site else 7)


def test_groups_globs_and_ignore_select_in_the_order_of_the_model():
    model = pico("gpt2")
    known = sites(model)
    assert select(model, ["all"]) == known
    assert set(select(model, ["attention"]).values()) == {"qkv", "output"}
    assert set(select(model, ["ffn", "embedding"]).values()) == {"up", "down", "embedding"}
    found = select(model, ["h.*.mlp.c_fc", "h.0.*"], ["*.attn.c_proj", "h.1.attn.*"])
    expected = {s for s in known if s.startswith("h.0.") or s.endswith("c_fc")}
    assert list(found) == [s for s in known if s in expected - {"h.0.attn.c_proj"}]
