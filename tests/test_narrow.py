"""Guards narrower MLPs: which neurons stay, what makes up for the others, saving and merging."""

import pytest
import torch
from conftest import CONFIGS, apart, output, pico, sentences, word_tokenizer
from test_laws import covariance, error, weight

import tlmtool
from tlmtool.compression.eliminating import ranked
from tlmtool.decompositions import from_dict
from tlmtool.decompositions.narrow import KEPT, Narrow
from tlmtool.failure import Usage
from tlmtool.models.neurons import mlps_of, separable
from tlmtool.models.surgery import plan_of, sites

TEXT = {"tokenizer": word_tokenizer(), "texts": sentences(40)}
FAMILIES = ("bert", "gpt2", "llama", "t5-gated")


def narrower(family: str, width: int = 24, **more):
    """A pico model whose MLPs have kept some of their 48 neurons, and the outcome."""
    model = pico(family, "lm")
    return model, tlmtool.compress(
        model, rank=width, method="narrow", sites="ffn", **{**TEXT, **more}
    )


@torch.no_grad()
def changed(model, family: str) -> float:
    """How far the outputs of a model on its calibration texts are from those of the dense one."""
    inputs = TEXT["tokenizer"](TEXT["texts"], padding=True, return_tensors="pt")
    inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    before, after = (each(**inputs)[0] for each in (pico(family, "lm"), model))
    return float((after - before)[inputs["attention_mask"].bool()].norm())


@pytest.mark.parametrize("made", [Narrow(3, "in", 1, 24), Narrow(3, "out", 2, 6), Narrow(None)])
def test_its_laws(made):
    assert from_dict(made.to_dict()) == made
    w = weight(12, 24, dtype=torch.float64)
    factors = made.decompose(w)
    assert {k: tuple(f.shape) for k, f in factors.items()} == made.shapes(12, 24)
    assert made.reconstruct(factors).shape == w.shape
    x = weight(5, 24, 1, torch.float64)
    torch.testing.assert_close(made.apply(x, factors), x @ made.reconstruct(factors).T)
    empty = {k: torch.empty(s, device="meta") for k, s in made.shapes(12, 24).items()}
    assert made.apply(torch.empty(2, 24, device="meta"), empty).shape == (2, 12)
    assert factors[KEPT].is_contiguous() and len(factors) == 1


@pytest.mark.parametrize("side", ["in", "out"])
def test_error_falls_with_rank_and_full_rank_is_exact(side):
    w = weight(24, 24)
    errors = [error(w, Narrow(rank, side, 1, 24)) for rank in (1, 6, 12, 23, 24)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0 < errors[-2]
    assert error(w, Narrow(None, side, 1, 24), covariance(24)) == 0


def test_columns_that_stay_make_up_for_the_others_as_well_as_any_could():
    w, c = weight(12, 24, dtype=torch.float64), covariance(24)
    made = Narrow(8, "in", 1, 24)
    kept = made.decompose(w, c)[KEPT]
    assert error(w, made, c, by=c) < 0.9 * error(w, made, None, by=c)
    left = w - made.reconstruct({KEPT: kept})  # what is left is orthogonal to what is kept
    assert float((left @ c[:, :8]).abs().max()) <= 1e-9 * float((w @ c).abs().max())


@pytest.mark.parametrize("wrong", [Narrow(25), Narrow(0), Narrow(3, "out", 5), Narrow(3, "up")])
def test_what_it_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"above 24|below 1|does not suit a weight \(12, 24\)"):
        wrong.shapes(12, 24)
    with pytest.raises(ValueError, match="width 7 is not 24"):
        Narrow(3, width=7).shapes(12, 24)


def test_the_ranking_knows_what_each_width_loses():
    w, c = weight(12, 24, dtype=torch.float64), covariance(24)
    g = covariance(12, 1)
    order, losses = ranked(w, c, g)
    assert sorted(order.tolist()) == list(range(24))
    for width in (1, 8, 20, 24):
        kept = order[:width]
        off = w.clone()
        off[:, kept] -= w @ c[:, kept] @ torch.linalg.inv(c[kept][:, kept])
        lost = float(torch.einsum("op,pi,ij,oj->", g, off, c, off))
        assert float(losses[width:].sum()) == pytest.approx(lost, rel=1e-6, abs=1e-9)


def test_a_neuron_that_others_can_replace_goes_first():
    x = weight(400, 6, 3, torch.float64)
    x[:, 5] = x[:, 0] + x[:, 1]  # large, and of no use beside the two
    c = x.T @ x / 400 + 1e-6 * torch.eye(6, dtype=torch.float64)
    w = torch.ones(4, 6, dtype=torch.float64)
    w[:, 2:5] *= 0.5
    assert int(ranked(w, c).order[-1]) in (0, 1, 5)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_mlps_of_every_family_can_be_cut(family):
    model = pico(family, "lm")
    found = separable(model, mlps_of(model).values())
    roles = sites(model)
    assert [*found] == [site for site, role in roles.items() if role == "down"]
    ffn = {site for site, role in roles.items() if role in ("gate", "up", "down")}
    assert {site for mlp in found.values() for site in mlp.sites} == ffn
    assert all(mlp.width == 48 for mlp in found.values())


class _Normed(torch.nn.Module):
    """An activation with a norm over the neurons."""

    def forward(self, x):
        x = torch.relu(x)
        return x / (x.square().mean(-1, keepdim=True) + 1).sqrt()


def test_a_norm_over_the_neurons_keeps_an_mlp_whole():
    model = pico("bert")
    model.encoder.layer[1].intermediate.intermediate_act_fn = _Normed()
    assert len(mlps_of(model)) == 2
    assert [*separable(model, mlps_of(model).values())] == ["encoder.layer.0.output.dense"]
    with pytest.raises(Usage, match="cannot lose a single neuron"):
        tlmtool.compress(model, rank=8, method="narrow", sites="*.1.intermediate.dense,*.1.output*")


@pytest.mark.parametrize("family", FAMILIES)
def test_all_neurons_in_another_order_are_the_same_model(family):
    model, dense = pico(family, "lm"), pico(family, "lm")
    for mlp in mlps_of(model).values():
        order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
        mlp.sort(model, order)
        down = model.base_model.get_submodule(mlp.down)
        rows = down.weight.shape[0] == 48  # GPT-2 holds (I, O)
        down.weight.data = down.weight.data[order] if rows else down.weight.data[:, order]
    assert apart(output(model), output(dense)) < 1e-5


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_and_merges_to_the_same_outputs(family, texts, tmp_path):
    """Also of activations that are not zero at zero, and of biases."""
    more = {} if texts else {"tokenizer": None, "texts": None}
    hard = {"hidden_act": "sigmoid"} if family == "bert" else {}
    model = pico(family, "lm", **hard)
    tlmtool.compress(model, rank=24, method="narrow", sites="ffn", **{**TEXT, **more})
    before, plan = output(model), plan_of(model)
    assert {d.name for d in plan.values()} == {"narrow"} and {d.rank for d in plan.values()} == {24}
    tlmtool.save(model, tmp_path / "out")
    again = tlmtool.load(tmp_path / "out")
    assert torch.equal(output(again), before) and plan_of(again) == plan
    tlmtool.merge(again)
    assert apart(output(again), before) < 1e-5
    sizes = {name: p.shape for name, p in pico(family, "lm", **hard).named_parameters()}
    assert {name: p.shape for name, p in again.named_parameters()} == sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_a_module_costs_one_product(family):
    model, _ = narrower(family)
    for site in plan_of(model):
        module = model.base_model.get_submodule(site)
        (linear,) = module.links
        assert type(linear) is torch.nn.Linear and 24 in linear.weight.shape
        assert module.bias_parameter() is None or module.bias_parameter().shape == (
            linear.out_features,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_refit_beats_the_cut_alone(family, monkeypatch):
    model, _ = narrower(family)
    weighed = Narrow._weighed
    monkeypatch.setattr(Narrow, "_weighed", lambda self, w, metric, g: weighed(self, w, None, g))
    alone, _ = narrower(family)
    assert changed(model, family) < 0.95 * changed(alone, family)


@pytest.mark.parametrize("allocate", ["uniform", "greedy"])
@pytest.mark.parametrize("named", ["ffn", "attention,ffn"])
def test_keep_counts_the_sites_that_stay_dense(named, allocate):
    model = pico("llama", "lm")
    before = {s: model.base_model.get_submodule(s).weight.numel() for s in sites(model)}
    del before["embed_tokens"]
    if named == "ffn":
        before = {site: size for site, size in before.items() if "mlp" in site}
    outcome = tlmtool.compress(
        model, keep=0.7, method="narrow", sites=named, allocate=allocate, **TEXT
    )
    base = model.base_model
    after = sum(sum(p.numel() for p in base.get_submodule(s).parameters()) for s in before)
    asked = 0.7 * sum(before.values())
    assert asked - 2 * 3 * 32 < after <= asked
    widths = {d.rank for d in outcome.plan.values()}
    assert len(widths) == 1 if allocate == "uniform" else len(widths) <= 2
    assert all("not part of an MLP" in why for why in outcome.left_dense.values())
    assert bool(outcome.left_dense) is (named != "ffn")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keep": 0.2, "sites": "attention,ffn"}, r"leaves dense hold .* name ffn alone"),
        ({"keep": 0.5, "sites": "attention"}, "it is not part of an MLP"),
        ({"keep": 0.5, "sites": "*.down_proj"}, "its MLP is not named whole"),
        ({"rank": 8, "sites": "*.down_proj"}, "no site would get smaller .* not named whole"),
        ({"rank": 49, "sites": "ffn"}, "rank 49 is above 48"),
        ({"rank": 48, "sites": "ffn"}, "no site would get smaller"),
        ({"energy": 0.5, "sites": "ffn"}, "takes a rank or keep"),
    ],
)
def test_what_cannot_be_is_one_sentence(asked, said):
    with pytest.raises(Usage, match=said) as raised:
        tlmtool.compress(pico("llama"), method="narrow", **asked, **TEXT)
    assert "\n" not in str(raised.value)


def test_no_single_linear_of_an_mlp_is_cut():
    from tlmtool.recipe.compression import Override

    override = Override(sites="*.down_proj", method="narrow")
    with pytest.raises(Usage, match="cuts all layers of an MLP to one width"):
        tlmtool.compress(pico("llama"), rank=8, method="svd", sites="ffn", overrides=[override])
