"""Conversion of attention through the front door: checkpoints that are factorized or converted
already, models without a bias, texts of other lengths than a kernel's, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from conftest import WORDS, output, pico, word_tokenizer

from tlmtool.attention.multilinear import MultiLinear
from tlmtool.cli import run
from tlmtool.compression.calibration import prepared, real
from tlmtool.compression.conversion import convert
from tlmtool.compression.ridge import dual, most_rows
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.mpo import MPO
from tlmtool.decompositions.svd import SVD
from tlmtool.models.attending import attention_sites, projections
from tlmtool.models.checkpoint import load
from tlmtool.models.factorized import bias_of
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, plan_of, sites

DIMENSIONWISE = ["--attention", "dimensionwise"]
OWN = ["--attention", "multilinear", "--attention-rank", "4"]  # projections and a map of its own
FULL = ["--attention", "multilinear", "--w-o", "full", "--attention-length", "16"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Texts of 2 to 13 tokens."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(120)]
    lines = [" ".join(WORDS[i] for i in each[: 2 + k % 10]) for k, each in enumerate(orders)]
    file.write_text("\n".join(lines) + "\n")
    return file


def folder(tmp_path: Path, family: str = "bert", head: str = "base", form=None, **more) -> Path:
    """A checkpoint, with the attention's linears in a form."""
    model, out = pico(family, head, **more), tmp_path / "model"
    if form:
        roles = ("query", "key", "value", "qkv", "output")
        factorize(model, {s: form for s, role in sites(model).items() if role in roles})
        adopt(model)
    model.save_pretrained(out)
    word_tokenizer().save_pretrained(out)
    return out


def compress(source: Path, texts: Path | str, out: Path, *more: str) -> int:
    words = ["compress", str(source), "--out", str(out), "--calibration", str(texts), "-q", *more]
    return run(words)


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


# ---- factors and kernels in either order


@pytest.mark.parametrize("kernel", [DIMENSIONWISE, [*DIMENSIONWISE, "--kernels", "2"], OWN])
@pytest.mark.parametrize("form", [SVD(rank=4), BTD(rank=3, blocks=4, modes=(4, 8)), MPO()])
def test_a_factorized_checkpoint_takes_kernels(form, kernel, texts, tmp_path):
    source, out = folder(tmp_path, form=form), tmp_path / "out"
    assert compress(source, texts, out, *kernel, "--layers", "1") == 0
    (layer,) = report(out)["attention"]["layers"]
    assert 0 < layer["output_error"] < 1
    plan, before = plan_of(load(out)), plan_of(load(source))
    same = {site for site, each in plan.items() if each == before.get(site)}
    changed = {"query", "key", "value", "output"}  # of another size, so dense again
    if kernel != OWN:
        changed = {"output"} if "--kernels" in kernel else set()
    roles = sites(load(source))
    kept = {s for s in before if "layer.0" in s or roles[s] not in changed}
    assert same == kept and set(plan) == kept | {layer["site"]}


@pytest.mark.parametrize("kernel", [DIMENSIONWISE, [*DIMENSIONWISE, "--kernels", "2"], OWN])
def test_a_converted_checkpoint_is_factorized(kernel, texts, tmp_path):
    source, first, out = folder(tmp_path), tmp_path / "first", tmp_path / "out"
    assert compress(source, texts, first, *kernel, "--layers", "1") == 0
    assert compress(first, texts, out, "--rank", "3", "--method", "svd") == 0
    plan = plan_of(load(out))
    assert len(plan) == (8 if kernel == OWN else 9)
    model = load(first)  # the same by hand
    factorize(model, {s: f for s, f in plan.items() if s not in plan_of(model)})
    assert output(model).shape == output(load(out)).shape
    assert run(["merge", str(out), "--out", str(tmp_path / "merged"), "-q"]) == 0
    assert [type(f) for f in plan_of(load(tmp_path / "merged")).values()] == [
        type(f) for f in plan_of(load(first)).values()
    ]


# ---- the bias of the output map


def fitted(family: str, kernel, texts: Path, form=None, **more):
    """(model, site, its output projection, rows (T, E) of it and of the dense layer's)"""
    dense, model = (pico(family, "lm", **more) for _ in range(2))
    path = attention_sites(model)[0]
    site = projections(model, path)["output"]
    if form:
        for each in (dense, model):
            factorize(each, {site: form})
    batches = prepared(model, word_tokenizer(), texts.read_text().split("\n")[:60], 32, 512)
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


@pytest.mark.parametrize("form", [None, SVD(rank=4), BTD(rank=3, blocks=4, modes=(4, 8))])
@pytest.mark.parametrize("kernel", ["dimensionwise", "decay"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "llama", "llama with a bias"])
def test_a_bias_is_fitted_where_there_is_one_and_none_is_made(family, kernel, form, texts):
    from tlmtool.attention.dimensionwise import DimensionWise

    more = {"attention_bias": True} if "bias" in family else {}
    form_of = {"dimensionwise": DimensionWise(), "decay": MultiLinear(terms=3)}
    name = family.split()[0]
    model, record, bias, ours, true = fitted(name, form_of[kernel], texts, form, **more)
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


@torch.no_grad()
@pytest.mark.parametrize("core", ["diagonal", "full"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_features_of_full_are_what_its_map_maps(core, causal):
    torch.manual_seed(0)
    form = MultiLinear(w_o="full", length=9, core=core)
    tensors = form.initial(2, 4, 8)
    q, k, v = (torch.randn(1, 2, 7, 4) for _ in range(3))
    rows = torch.tensor([0, 3, 6])
    x = form.features(q, k, v, tensors, rows, causal)
    whole = form.naive(q, k, v, tensors, causal=causal)[0]
    assert (x.flatten(1) @ tensors["out"].flatten(0, 1) - whole[rows]).abs().max() <= 1e-5


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_full_is_fitted_too(family, texts, tmp_path):
    out = tmp_path / "out"
    more = ["--max-length", "16"]
    assert compress(folder(tmp_path, family, "lm"), texts, out, *FULL, *more) == 0
    found = report(out)
    assert all(0 < each["output_error"] < 1 for each in found["attention"]["layers"])
