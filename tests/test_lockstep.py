"""Guards dense and compressed model side by side: what is measured is what full passes give."""

import copy
from itertools import groupby

import pytest
import torch
from conftest import CONFIGS, WORDS, pico, word_tokenizer
from torch import Tensor, nn

from tlmtool.compression import lockstep
from tlmtool.compression.calibration import prepared
from tlmtool.compression.lockstep import Fit, Lockstep
from tlmtool.compression.walking import Place, place_of, places_of
from tlmtool.data.batching import Batch
from tlmtool.decompositions.svd import SVD
from tlmtool.measuring.outputs import last_hidden
from tlmtool.models.factorized import Factorized, dense_weight
from tlmtool.models.roles import WRITES_RESIDUAL
from tlmtool.models.surgery import factorize, sites

FAMILY = pytest.mark.parametrize("family", CONFIGS)
TEXTS = [" ".join(WORDS[(k * k + n) % 11] for k in range(n)) for n in (24, 17, 9, 5, 3)]


def pair_of(family: str, rank: int = 3) -> tuple[Lockstep, list[Place]]:
    """A dense model and one with every second site factorized, and its (stack, index, group)s."""
    dense = pico(family)
    batches = prepared(dense, word_tokenizer(), TEXTS, 64, 64)
    known = sites(dense).items()
    linears = [site for site, role in known if role not in ("embedding", "other")]
    places = places_of(dense, linears, batches[0])
    model = copy.deepcopy(dense)
    factorize(model, {site: SVD(rank) for site in linears[::2]})
    pair = Lockstep(dense, model, batches)
    pair.same = False
    return pair, places


@torch.no_grad()
def passing(model: nn.Module, path: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """(input, output) of a module in a full forward pass."""
    kept = []
    module = model.base_model.get_submodule(path)
    handle = module.register_forward_hook(lambda m, args, y: kept.append((args[0], y)))
    last_hidden(model, batch)
    handle.remove()
    return kept[0]


def tensors(output) -> list[Tensor]:
    parts = output if isinstance(output, tuple) else (output,)
    return [part for part in parts if isinstance(part, Tensor)]


@FAMILY
def test_kept_outputs_are_those_of_full_forward_passes(family):
    """Exactly: a block that is done hands on what it gave, to the last bit."""
    pair, places = pair_of(family)
    for stack in dict.fromkeys(place.stack for place in places):
        for index in range(len(pair.pair[0].blocks(stack))):
            pair.reach(stack, index + 1)
            for walk in pair.pair:
                assert walk.at[stack] == index + 1
                for batch, output in zip(walk.batches, walk.outputs[stack], strict=True):
                    whole = passing(walk.model, f"{stack}.{index}", batch)[1]
                    found = zip(tensors(output), tensors(whole), strict=True)
                    assert all(torch.equal(a, b) for a, b in found)
    for walk in pair.pair:  # no stub stays behind
        assert not any("forward" in vars(m) for m in walk.model.modules())


@FAMILY
def test_measured_is_what_full_forward_passes_give(family):
    """Means over real tokens of x and of (x_dense - x) x^T, or of (y_dense - y) x^T where the
    site writes into the residual stream; each block measured with those before it standing still.
    """
    pair, places = pair_of(family)
    models, batches = [walk.model for walk in pair.pair], pair.pair[0].batches
    roles = sites(models[0])
    masks = [batch.inputs["attention_mask"].flatten().bool() for batch in batches]
    for stack, index, group, _ in places:
        pair.reach(stack, index)
        writes = roles[group[0]] in WRITES_RESIDUAL
        found = pair.measure(group, writes)
        y, x = (
            torch.cat(
                [
                    passing(model, group[0], batch)[0].flatten(0, -2)[mask].double()
                    for batch, mask in zip(batches, masks, strict=True)
                ]
            )
            for model in models
        )
        moved, name = y - x, "shift"
        if writes:
            s, r = (mute(model, group[0], batches, masks) for model in models)
            weights = (dense_weight(m.base_model.get_submodule(group[0])) for m in models)
            w_dense, w = (weight.double() for weight in weights)
            moved, name = s - r + y @ w_dense.T - x @ w.T, "gap"
            biases = (biased(m.base_model.get_submodule(group[0])) for m in models)
            moved += next(biases) - next(biases)
        close = {"rtol": 1e-3, "atol": 1e-5 * float(x.square().mean())}
        torch.testing.assert_close(found.second, x.T @ x / len(x), **close)
        assert set(found.more) == {name, f"{name}_mean"}
        torch.testing.assert_close(found.more[name], moved.T @ x / len(x), **close)
        torch.testing.assert_close(found.more[f"{name}_mean"], moved.mean(0), **close)


@FAMILY
def test_a_block_that_runs_ahead_gives_the_same_moments(family):
    """To the last bit, though its dense inputs are kept and finished modules do not run again."""
    (plain, places), (ahead, _) = pair_of(family), pair_of(family)
    roles = sites(plain.pair[0].model)
    for (stack, index), found in groupby(places, lambda place: place[:2]):
        groups = [
            (p.group, roles[p.group[0]] in WRITES_RESIDUAL and len(p.group) == 1) for p in found
        ]
        for pair in (plain, ahead):
            pair.reach(stack, index)
        ahead.look_ahead(groups)
        for group, writes in groups:
            one, other = (pair.measure(list(group), writes) for pair in (plain, ahead))
            assert one.count == other.count and one.more.keys() == other.more.keys()
            assert torch.equal(one.second, other.second) and torch.equal(one.mean, other.mean)
            assert all(torch.equal(one.more[name], other.more[name]) for name in one.more)
        assert ahead.pair[1].inner  # of the modules of the block that were finished


def biased(module: nn.Module) -> Tensor | float:
    """The bias of a linear, dense or not; 0 where it has none."""
    bias = module.bias_parameter() if isinstance(module, Factorized) else module.bias
    return 0.0 if bias is None else bias.detach().double()


@torch.no_grad()
def mute(model: nn.Module, site: str, batches: list[Batch], masks: list[Tensor]) -> Tensor:
    """What the next norm reads (T, O) when the site gives zeros: the stream it is added to."""
    rows: list[Tensor] = []
    passed: list[str] = []
    module = model.base_model.get_submodule(site)
    norms = [m for m in model.base_model.modules() if "Norm" in type(m).__name__]
    handles = [module.register_forward_hook(lambda m, args, y: passed.append(site) or 0 * y)]

    def note(m: nn.Module, args: tuple) -> None:
        if passed:
            passed.clear()
            rows.append(args[0].flatten(0, -2))

    handles += [norm.register_forward_pre_hook(note) for norm in norms]
    for batch in batches:
        last_hidden(model, batch)
    for handle in handles:
        handle.remove()
    return torch.cat([r[mask] for r, mask in zip(rows, masks, strict=True)]).double()


def draw(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("at_once", [3, 1024])
def test_the_target_is_the_ridge_solution(biased, streams, ridge, at_once, monkeypatch):
    """argmin_T sum_t |T x - (W x_dense + r_dense - r)|^2 / n + ridge mean(diag C) |T - W|^2, by
    lstsq on the rows and one more for each input; with a bias all is centred first."""
    monkeypatch.setattr(lockstep, "AT_ONCE", at_once)
    n, o, i = 80, 5, 7
    x = draw(n, i, seed=0) + 1
    dense = x + 0.5 * draw(n, i, seed=1) @ draw(i, i, seed=2) - 0.3
    gap = (0.4 * x[:, :o] + draw(n, o, seed=3) + 2) * streams
    w, b = draw(o, i, seed=4), draw(o, seed=5) if biased else None
    moved = (dense - x) @ w.T + gap if streams else dense - x
    name = "gap" if streams else "shift"
    more = {name: moved.T @ x / n, f"{name}_mean": moved.mean(0)}
    found, mean = Fit(n, x.mean(0), x.T @ x / n, **more).target(w, b, ridge)

    y = dense @ w.T + gap + (b if biased else 0)
    a, aim = (x - x.mean(0), y - y.mean(0)) if biased else (x, y)
    pull = (ridge * a.square().sum(1).mean() / i) ** 0.5 * torch.eye(i).double()
    rows = torch.cat([a / n**0.5, pull]), torch.cat([aim / n**0.5, pull @ w.T])
    torch.testing.assert_close(found, torch.linalg.lstsq(*rows).solution.T)
    if biased:
        torch.testing.assert_close(mean, y.mean(0))
    else:
        assert mean is None


@pytest.mark.parametrize("same", [True, False])
def test_with_the_dense_model_on_both_sides_the_target_is_w(same):
    dense = pico("bert")
    batches = prepared(dense, word_tokenizer(), TEXTS, 64, 64)
    pair = Lockstep(dense, copy.deepcopy(dense), batches)
    pair.same = same
    for layer in range(2):
        pair.reach("encoder.layer", layer)
        for part in ("attention.self.query", "attention.output.dense", "output.dense"):
            site = f"encoder.layer.{layer}.{part}"
            module = dense.get_submodule(site)
            weight, bias = dense_weight(module).double(), module.bias.detach().double()
            fit = pair.measure([site], part.endswith("dense"))
            target, mean = fit.target(weight, bias, 0.1)
            assert torch.equal(target, weight)
            torch.testing.assert_close(mean - weight @ fit.mean, bias)


def test_a_site_outside_a_stack_has_no_place_in_one():
    assert place_of(["a.b.3.c", "a.b.3.d"]) == Place("a.b", 3, ["a.b.3.c", "a.b.3.d"])
    assert place_of(["head"]) == Place("", 0, ["head"])
