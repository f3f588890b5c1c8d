"""Guards the output map of a converted module: its bias, its re-load, the ridge regression."""

import pytest
import torch
from conftest import auto, output, pico, sentences, word_tokenizer

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.compression import mapping
from tlmtool.compression.calibration import prepared, real
from tlmtool.compression.conversion import convert
from tlmtool.compression.ridge import dual, most_rows
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import CheckFailed
from tlmtool.models.attending import attention_sites, projections
from tlmtool.models.factorized import bias_of
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize


def fitted(family: str, kernel, held=None, **more):
    """(model, site, its output projection, rows (T, E) of it and of the dense layer's)"""
    dense, model = (pico(family, "lm", **more) for _ in range(2))
    path = attention_sites(model)[0]
    site = projections(model, path)["output"]
    if held:
        for each in (dense, model):
            factorize(each, {site: held})
    batches = prepared(model, word_tokenizer(), sentences(60), 32, 512)
    (record,) = convert(model, {path: kernel}, batches)
    found = []
    for each in (model, dense):
        rows = []
        module = each.base_model.get_submodule(site)
        with torch.no_grad():
            for batch in batches:
                kept = []
                hook = module.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
                each(**batch.inputs)
                hook.remove()
                rows.append(real(kept[0].reshape(*batch.inputs["input_ids"].shape, -1), batch))
        found.append(torch.cat(rows))
    return model, record, bias_of(model.base_model.get_submodule(site)), *found


@pytest.mark.parametrize("held", [None, SVD(rank=4), BTD(rank=3, blocks=4, modes=(4, 8))])
@pytest.mark.parametrize("kernel", ["dimensionwise", "decay"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "llama", "llama with a bias"])
def test_a_bias_is_fitted_where_there_is_one_and_none_is_made(family, kernel, held, tmp_path):
    more = {"attention_bias": True} if "bias" in family else {}
    kernels = {"dimensionwise": DimensionWise(), "decay": MultiLinear(terms=3)}
    name = family.split()[0]
    model, record, bias, ours, true = fitted(name, kernels[kernel], held, **more)
    wrong, scale = ours - true, true.abs().mean()
    if family == "llama":
        assert bias is None
        error = wrong.norm() / true.norm()
    else:  # with an intercept the residuals of least squares have mean zero
        assert wrong.mean(0).abs().max() <= 1e-4 * scale
        error = wrong.norm() / (true - true.mean(0)).norm()
    assert float(error) == pytest.approx(record["output_error"], rel=2e-2)
    names = {name for name, _ in pico(name, "lm", **more).named_parameters() if "bias" in name}
    kept = {n.replace(".weight.left", "") for n, _ in model.named_parameters() if "bias" in n}
    assert kept == names
    adopt(model).save_pretrained(tmp_path)
    again = auto(name, "lm").from_pretrained(tmp_path).eval()
    assert torch.equal(output(again), output(model))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
def test_the_error_of_full_is_that_on_the_texts_held_out(family):
    """Every fifth, of the outputs of the two models themselves; the rest are nearer still."""
    _, record, bias, ours, true = fitted(family, MultiLinear(w_o="full", length=16))
    texts = prepared(pico(family, "lm"), word_tokenizer(), sentences(60), 32, 512)
    lengths = torch.cat([batch.inputs["attention_mask"].sum(1) for batch in texts])
    held = (torch.arange(60) % 5 == 4).repeat_interleave(lengths)
    if bias is not None:
        true, ours = true - (mean := true[~held].mean(0)), ours - mean
    wrong, apart = (ours - true).norm(dim=1), true.norm(dim=1)
    assert float(wrong[held].norm() / apart[held].norm()) == pytest.approx(
        record["output_error"], rel=1e-4
    )
    assert wrong[~held].norm() / apart[~held].norm() < record["output_error"] < 1


# ---- ridge regression through the dual


def test_the_dual_is_the_primal():
    torch.manual_seed(0)
    x, y = torch.randn(60, 20).double() + 1, torch.randn(60, 3).double() + 2
    y[:, 0] += x[:, 0]
    given = x.clone(), y.clone()
    found = dual(x, y, 48, True)
    rows, true = given[0][:48], given[1][:48]
    c, t = rows - rows.mean(0), true - true.mean(0)
    errors = []
    for share in (10.0, 1.0, 0.1, 0.01, 0.001):
        add = share * float((c @ c.T).diagonal().mean())
        primal = torch.linalg.solve(c.T @ c + add * torch.eye(20).double(), c.T @ t)
        off = given[1][48:] - true.mean(0)
        wrong = (given[0][48:] - rows.mean(0)) @ primal - off
        errors.append((float(wrong.norm() / off.norm()), primal))
    error, best = min(errors, key=lambda each: each[0])
    assert found.error == pytest.approx(error) and torch.allclose(found.map, best)
    assert torch.allclose(found.bias, true.mean(0) - rows.mean(0) @ best)


def test_rows_are_bounded_by_their_memory():
    assert all(most_rows(n**2) * n**2 <= 2**26 for n in (16, 128, 512, 2048))
    assert most_rows(10**9) == 1 and most_rows(16) == 4096


def test_rows_are_fitted_however_few_are_drawn(monkeypatch):
    monkeypatch.setattr(mapping, "most_rows", lambda features: 1)
    errors = []
    for texts in range(2, 8):
        model = pico("bert")
        batches = prepared(model, word_tokenizer(), sentences(60)[-texts:], 32, 512)
        plan = {attention_sites(model)[0]: MultiLinear(w_o="full", length=16)}
        (record,) = convert(model, plan, batches)
        assert output(model).isfinite().all()
        errors.append(record["output_error"])
    assert errors == [None] * 6  # of one row none is left to hold out


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "kernel", [DimensionWise(), MultiLinear(), MultiLinear(w_o="full", length=16)]
)
def test_a_layer_that_gives_no_numbers_is_named(kernel, wrong):
    model = pico("bert")
    first, second = attention_sites(model)
    with torch.no_grad():
        model.get_submodule(projections(model, second)["value"]).bias[0] = wrong
    batches = prepared(model, word_tokenizer(), sentences(20), 32, 512)
    with pytest.raises(CheckFailed, match=f"{second} cannot be fitted"):
        convert(model, {first: kernel, second: kernel}, batches)


@torch.no_grad()
@pytest.mark.parametrize("core", ["diagonal", "full"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_features_of_full_are_what_its_map_maps(core, causal):
    torch.manual_seed(0)
    kernel = MultiLinear(w_o="full", length=9, core=core)
    tensors = {name: torch.randn_like(t) for name, t in kernel.initial(2, 4, 8).items()}
    q, k, v = (torch.randn(1, 2, 7, 4) for _ in range(3))
    rows = torch.tensor([0, 3, 6])
    x = kernel.features(q, k, v, tensors, rows, causal)
    whole = kernel.naive(q, k, v, tensors, causal=causal)[0]
    assert (x.flatten(1) @ tensors["out"].flatten(0, 1) - whole[rows]).abs().max() <= 1e-5
