"""Dense and compressed model side by side: what is kept and measured is what full passes give."""

import copy

import pytest
import torch
from conftest import CONFIGS, WORDS, pico, word_tokenizer
from torch import Tensor, nn

from tlmtool.compression.calibration import groups_of, prepared
from tlmtool.compression.lockstep import Fit, Lockstep, stacks_of
from tlmtool.data.tasks import Batch
from tlmtool.decompositions.svd import SVD
from tlmtool.measuring.outputs import last_hidden
from tlmtool.models.architectures import WRITES_RESIDUAL
from tlmtool.models.factorized import dense_weight
from tlmtool.models.surgery import factorize, sites

FAMILY = pytest.mark.parametrize("family", CONFIGS)
TEXTS = [" ".join(WORDS[(k * k + n) % 11] for k in range(n)) for n in (24, 17, 9, 5, 3)]


def pair_of(family: str, rank: int = 3) -> tuple[Lockstep, list[tuple[str, int, list[str]]]]:
    """A dense model and one with every second site factorized, and its (stack, index, group)s."""
    dense = pico(family)
    batches = prepared(dense, word_tokenizer(), TEXTS, 64, 64)
    linears = [site for site, role in sites(dense).items() if role != "embedding"]
    places = stacks_of(dense, groups_of(dense, linears, batches[0]))
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
    for stack in dict.fromkeys(stack for stack, _, _ in places):
        for index in range(len(pair.pair[0].base_model.get_submodule(stack))):
            pair.advance(stack)
            for model, kept in zip(pair.pair, pair.outputs, strict=True):
                for batch, output in zip(pair.batches, kept[stack], strict=True):
                    whole = passing(model, f"{stack}.{index}", batch)[1]
                    found = zip(tensors(output), tensors(whole), strict=True)
                    assert all(torch.equal(a, b) for a, b in found)
    for model in pair.pair:  # no stub stays behind
        assert not any("forward" in vars(m) for m in model.modules())


@FAMILY
def test_measured_is_what_full_forward_passes_give(family):
    """Means over real tokens of x, of (x_dense - x) x^T and of (r_dense - r) x^T, each block
    measured with the blocks before it standing still. r is the norm's input when the site is mute.
    """
    pair, places = pair_of(family)
    roles = sites(pair.pair[0])
    for stack, index, group in places:
        for other in {stack, *pair.at}:
            whole = len(pair.pair[0].base_model.get_submodule(other))
            while pair.at.setdefault(other, 0) < (index if other == stack else whole):
                pair.advance(other)
        writes = roles[group[0]] in WRITES_RESIDUAL
        found = pair.measure(group, writes)
        masks = [batch.inputs["attention_mask"].flatten().bool() for batch in pair.batches]
        y, x = (
            torch.cat(
                [
                    passing(model, group[0], batch)[0].flatten(0, -2)[mask].double()
                    for batch, mask in zip(pair.batches, masks, strict=True)
                ]
            )
            for model in pair.pair
        )
        close = {"rtol": 1e-3, "atol": 1e-5 * float(x.square().mean())}
        torch.testing.assert_close(found.second, x.T @ x / len(x), **close)
        torch.testing.assert_close(found.more["shift"], (y - x).T @ x / len(x), **close)
        torch.testing.assert_close(found.more["shift_mean"], (y - x).mean(0), **close)
        assert ("residual" in found.more) == writes
        if writes:
            s, r = (mute(model, group[0], pair.batches, masks) for model in pair.pair)
            torch.testing.assert_close(found.more["residual"], (s - r).T @ x / len(x), **close)
            torch.testing.assert_close(found.more["residual_mean"], (s - r).mean(0), **close)


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
def test_the_target_is_the_ridge_solution(biased, streams, ridge):
    """argmin_T sum_t |T x - (W x_dense + r_dense - r)|^2 / n + ridge mean(diag C) |T - W|^2, by
    lstsq on the rows and one more for each input; with a bias all is centred first."""
    n, o, i = 80, 5, 7
    x = draw(n, i, seed=0) + 1
    dense = x + 0.5 * draw(n, i, seed=1) @ draw(i, i, seed=2) - 0.3
    gap = (0.4 * x[:, :o] + draw(n, o, seed=3) + 2) * streams
    w, b = draw(o, i, seed=4), draw(o, seed=5) if biased else None
    more = {"shift": (dense - x).T @ x / n, "shift_mean": (dense - x).mean(0)}
    if streams:
        more |= {"residual": gap.T @ x / n, "residual_mean": gap.mean(0)}
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
    for _ in range(2):
        for part in ("attention.self.query", "attention.output.dense", "output.dense"):
            site = f"encoder.layer.{pair.at.get('encoder.layer', 0)}.{part}"
            module = dense.get_submodule(site)
            weight, bias = dense_weight(module).double(), module.bias.detach().double()
            fit = pair.measure([site], part.endswith("dense"))
            target, mean = fit.target(weight, bias, 0.1)
            assert torch.equal(target, weight)
            torch.testing.assert_close(mean - weight @ fit.mean, bias)
        pair.advance("encoder.layer")


def test_a_site_outside_a_stack_has_no_place_in_one():
    model = pico("gpt2")
    assert stacks_of(model, [["a.b.3.c", "a.b.3.d"], ["head"]]) == [
        ("a.b", 3, ["a.b.3.c", "a.b.3.d"]),
        ("", 0, ["head"]),
    ]
