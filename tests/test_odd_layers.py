"""Guards calibration where a layer runs several times, or reads what has no row for each token."""

import pytest
import torch
from conftest import sentences, word_tokenizer
from test_roles import tiny
from torch import Tensor, nn

from tlmtool.compression.calibration import input_moments, prepared
from tlmtool.compression.candidates import left_out
from tlmtool.compression.compress import compress
from tlmtool.compression.lockstep import Lockstep
from tlmtool.compression.statistics import Statistics
from tlmtool.compression.walking import Walk, places_of
from tlmtool.data.batching import Batch
from tlmtool.decompositions.svd import SVD
from tlmtool.measuring.outputs import last_hidden
from tlmtool.models.surgery import factorize, sites

TEXTS = {"tokenizer": word_tokenizer(), "texts": sentences(12)}
POSITIONS = {"relative_attention": True, "max_relative_positions": 16, "position_buckets": 8}
POSITIONS |= {"pos_att_type": ["p2c", "c2p"]}


def batches_of(model: nn.Module) -> list[Batch]:
    return prepared(model, TEXTS["tokenizer"], TEXTS["texts"], 64, 64)


def linears(model: nn.Module) -> list[str]:
    return [site for site, role in sites(model).items() if role not in ("embedding", "other")]


@torch.no_grad()
def rows(model: nn.Module, site: str, batch: Batch) -> list[Tensor]:
    """The inputs of all calls of a site that have a row for each token: those of real tokens."""
    kept: list[Tensor] = []
    mask = batch.inputs["attention_mask"].bool()

    def note(module: nn.Module, args: tuple) -> None:
        if args[0].shape[:2] == mask.shape:
            kept.append(args[0][mask])

    handle = model.base_model.get_submodule(site).register_forward_pre_hook(note)
    last_hidden(model, batch)
    handle.remove()
    return kept


@pytest.mark.parametrize(
    ("kind", "more", "calls"),
    [
        ("albert", {"num_hidden_layers": 3}, 3),
        ("deberta-v2", {**POSITIONS, "share_att_key": True}, 1),
        ("flaubert", {"n_layers": 2, "emb_dim": 32, "n_words": 99}, 1),  # two lists of blocks
    ],
)
def test_all_calls_that_read_tokens_count(kind, more, calls):
    """In the dense model, and in one whose layers have changed beside it."""
    model = tiny(kind, **more)
    batches, names = batches_of(model), linears(model)
    statistics = Statistics(model, sites(model), batches)
    assert not {*statistics.blind} & {*names}
    found = {tuple(group): moments for group, moments in statistics.moments("")}
    assert {site for group in found for site in group} >= {*names}
    for group, moments in found.items():
        if moments is None:
            continue
        each = [rows(model, group[0], batch) for batch in batches]
        assert all(len(part) == calls for part in each) or group[0] not in names
        x = torch.cat([part for several in each for part in several]).double()
        assert moments.count == len(x)
        assert torch.allclose(moments.second, x.T @ x / len(x), atol=1e-5)
    other = tiny(kind, **more)
    factorize(other, {names[0]: SVD(2)})
    pair = Lockstep(model, other, batches)
    pair.same = False
    for stack, index, group, once in statistics.places[-2:]:
        pair.reach(stack, index)
        x, before = (
            torch.cat([row for b in batches for row in rows(each, group[0], b)]).double()
            for each in (other, model)
        )
        fit = pair.measure(group, False, once)
        assert torch.allclose(fit.second, x.T @ x / len(x), atol=1e-5)
        shift = (before - x).T @ x / len(x)
        assert torch.allclose(fit.more["shift"], shift, atol=1e-5)


def test_a_site_that_reads_no_tokens_is_fitted_without_text():
    model = tiny("deberta-v2", **POSITIONS, share_att_key=False)
    blind = [site for site in sites(model) if "pos_" in site]
    assert len(blind) == 4 and {sites(model)[site] for site in blind} == {"other"}
    for budget in ({"rank": 2, "method": "svd"}, {"keep": 0.6}):
        outcome = compress(
            tiny("deberta-v2", **POSITIONS, share_att_key=False), sites="linears", **budget, **TEXTS
        )
        (told,) = [text for text in outcome.warnings if "without text" in text]
        assert told.startswith("4 sites such as encoder.layer.0.attention.self.pos_key_proj are")
        errors = {each["site"]: each.get("output_error") for each in outcome.sites}
        assert all((errors[site] is None) == (site in blind) for site in errors)
    assert not any("without text" in t for t in compress(model, rank=2, **TEXTS).warnings)


@pytest.mark.parametrize(
    "budget", [{"keep": 0.6}, {"keep": 0.6, "allocate": "uniform"}, {"rank": 2}]
)
def test_a_gate_of_one_output_stays_dense(budget):
    """The budget is kept all the same, and one reason serves for all such gates."""
    outcome = compress(tiny("qwen2_moe"), sites="linears", method="svd", **budget)
    gates = {site: why for site, why in outcome.left_dense.items() if "shared_expert_gate" in site}
    assert len(gates) == 2 and len({*gates.values()}) == 1
    assert "(1, 32)" in next(iter(gates.values()))


def test_a_table_with_a_row_for_each_token_of_a_text_is_no_text():
    """Texts of 16 tokens, and a table of 16 relative positions."""
    model = tiny("deberta-v2", **POSITIONS, share_att_key=False)
    texts = [" ".join(TEXTS["texts"][9:12]), *TEXTS["texts"]]
    settings = {"tokenizer": TEXTS["tokenizer"], "texts": texts, "max_length": 16}
    told = compress(model, rank=2, sites="linears", **settings).warnings
    assert any(text.startswith("4 sites such as") for text in told)


def test_what_is_named_and_is_not_there_is_said():
    bare, model = tiny("mixtral"), tiny("qwen2_moe")
    (told,) = left_out(bare, ["attention", "ffn"])
    assert "has no sites of ffn: its experts, such as layers.0.mlp.experts" in told
    (told,) = left_out(model, ["all"])
    assert told.startswith(f"{type(model).__name__}: its experts, such as layers.0.mlp.experts")
    assert left_out(model, ["attention"]) == [] == left_out(tiny("bert"), ["all", "linears"])


def test_blocks_of_which_one_is_run_twice_are_no_blocks():
    model = tiny("albert", num_hidden_layers=2)
    (batch, *_) = batches_of(model)
    places = places_of(model, linears(model), batch)
    assert {place.stack for place in places} == {""} and not any(p.once for p in places)
    straight = tiny("gemma2")
    places = places_of(straight, linears(straight), batch)
    assert {place.stack for place in places} == {"layers"} and all(p.once for p in places)
    (alone,) = input_moments(Walk(straight, [batch]), [places[0].group])
    assert alone.count == int(batch.inputs["attention_mask"].sum())


@pytest.mark.parametrize("kind", ["albert", "deberta-v2", "qwen2_moe", "gemma2"])
def test_text_lowers_the_error_of_odd_models_too(kind):
    """The output error of an SVD that text weighs is below that of a plain one."""
    more = {**POSITIONS, "share_att_key": True} if kind == "deberta-v2" else {}
    outcome = compress(tiny(kind, **more), rank=4, method="svd", sequential=False, **TEXTS)
    assert outcome.sites
    for each in outcome.sites:
        assert each["output_error"] <= each["svd_output_error"] * (1 + 1e-6)
