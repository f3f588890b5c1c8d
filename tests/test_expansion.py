"""Weights trained through cores: exact, never stale, every core moves, the optimizer whole."""

import pytest
import torch
from conftest import CONFIGS, inputs, output, pico
from torch.nn.functional import cross_entropy

from tlmtool.models.factorized import dense_weight, shape
from tlmtool.models.surgery import factorized, sites
from tlmtool.training.expansion import Expansion, keep_cores, lifted, multiply_out
from tlmtool.training.growth import expansion
from tlmtool.training.optimizing import Optimizer, direction, trainable

FAMILIES = ("bert", "gpt2", "t5", "llama")


def linears(model):
    return [s for s, role in sites(model).items() if role not in ("embedding", "other")]


def weights(model):
    return {s: model.base_model.get_submodule(s).weight for s in linears(model)}


def expand(model, site, growth=3.0):
    module = model.base_model.get_submodule(site)
    return Expansion(site, module, expansion(*shape(module), growth))


def optimizer(model, lr=1e-3, decay=0.0, steps=10):
    return Optimizer(model, weights(model), lr, decay, "constant", 0, steps)


def backward(model, seed=1):
    found = model(**inputs(model, seed))[0]
    (found.float() ** 2).mean().backward()


@pytest.mark.parametrize("family", CONFIGS)
def test_expanding_changes_nothing_and_merging_is_its_inverse(family):
    model = pico(family)
    before, count = output(model), sum(p.numel() for p in model.parameters())
    made = [expand(model, site) for site in linears(model)]
    assert all(e.decomposition.shapes(*shape(model.base_model.get_submodule(e.site))) for e in made)
    assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()
    multiply_out(model, made)
    assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_the_cores_and_lifting_them_again_is_the_same_model(family):
    model = pico(family)
    before = output(model)
    made = [expand(model, site) for site in linears(model)[:3]]
    keep_cores(model, made)
    assert len(list(factorized(model))) == 3
    assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()
    again = lifted(model)
    assert [e.site for e in again] == [e.site for e in made] and not list(factorized(model))
    for a, b in zip(made, again, strict=True):
        assert all(torch.equal(a.cores[k], b.cores[k]) for k in a.cores)
    assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_the_cores_is_that_of_the_factorized_module(family):
    dense, held = pico(family), pico(family)
    site = linears(dense)[-1]
    through = expand(dense, site)
    keep_cores(held, [Expansion(site, held.base_model.get_submodule(site), through.decomposition)])
    backward(dense)
    backward(held)
    through.pull()
    assert through.weight.grad is None
    factors = held.base_model.get_submodule(site).factors
    for name, core in through.cores.items():
        torch.testing.assert_close(core.grad, factors[name].grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("match", [True, False])
def test_a_step_moves_every_core_and_w_is_never_stale(family, project, match):
    model = pico(family)
    adam = optimizer(model)
    backward(model)
    adam.step()  # moments to carry back
    backward(model, 2)
    made = [expand(model, site) for site in linears(model)]
    held = {id(p) for p in adam.parameters()}
    for each in made:
        adam.take(each, match, project)
    ids = [id(p) for p in adam.parameters()]
    assert sorted(ids) == sorted(id(p) for p in trainable(model, made)) and set(ids) != held
    for seed in (3, 4):
        adam.step()
        for each in made:
            assert min(each.moves.values()) > 0
            now = dense_weight(model.base_model.get_submodule(each.site))
            assert (now - each.product()).norm() <= 1e-6 * now.norm()
        backward(model, seed)


def test_what_is_not_expanded_keeps_its_state_and_its_rate():
    model = pico("bert")
    adam = optimizer(model)
    backward(model)
    adam.step()
    backward(model, 2)
    made = expand(model, linears(model)[0])
    others = [p for p in adam.parameters() if p is not made.weight and p.grad is not None]
    before = {p: adam.adam.state[p]["exp_avg"].clone() for p in others}
    rates = [g["lr"] for g in adam.adam.param_groups]
    adam.take(made, True, True)
    assert all(torch.equal(adam.adam.state[p]["exp_avg"], kept) for p, kept in before.items())
    assert made.weight not in adam.adam.state
    changed = [a != g["lr"] for a, g in zip(rates, adam.adam.param_groups, strict=True)]
    assert sum(changed) == 1 and adam.group_of(made)[1]["lr"] == pytest.approx(1e-3 / made.ratio)


def test_matching_makes_the_first_step_as_long_as_that_of_w():
    lengths = []
    for expanded in (False, True):
        model = pico("bert")
        adam, site = optimizer(model, lr=1e-5), linears(model)[0]
        backward(model)
        before = dense_weight(model.base_model.get_submodule(site)).clone()
        if expanded:
            made = expand(model, site)
            adam.take(made, True, False)
            assert made.ratio > 1.5
        adam.step()
        lengths.append((dense_weight(model.base_model.get_submodule(site)) - before).norm())
    torch.testing.assert_close(lengths[1], lengths[0], rtol=0.02, atol=0)


def test_direction_is_what_adamw_does():
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    adam = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        parameter.grad, before = torch.randn(4, 3), parameter.detach().clone()
        expected = direction(parameter.grad, adam.state.get(parameter, {}))
        adam.step()
        torch.testing.assert_close(before - parameter.detach(), 0.1 * expected)


def test_decay_falls_once_on_w_and_not_on_each_core():
    model = pico("bert")
    site = linears(model)[0]
    adam = optimizer(model, lr=1e-2, decay=0.5)
    backward(model)
    made = expand(model, site)
    adam.take(made, True, False)
    before = made.product()
    adam.adam.zero_grad()
    made.weight.grad = torch.zeros_like(made.weight)  # nothing but the decay
    adam.step()
    torch.testing.assert_close(made.product(), before * (1 - 1e-2 * 0.5), rtol=1e-4, atol=1e-6)


def test_projected_squares_are_the_squared_jacobian():
    model = pico("bert")
    made = expand(model, linears(model)[0])
    second = torch.rand_like(made.weight)
    names, cores = zip(*made.cores.items(), strict=True)
    core = cores[1]
    found = made.squares(second)[1]

    def rebuilt(value):
        return made.decomposition.reconstruct(dict(made.cores) | {names[1]: value})

    jacobian = torch.autograd.functional.jacobian(rebuilt, core.detach())  # (O, I, *core)
    expected = torch.tensordot(second, jacobian.square(), 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_expanded_training_learns_what_dense_training_learns():
    """A few steps of both on one batch bring the loss down alike."""
    ends = []
    for expanded in (False, True):
        model = pico("bert", "classification", num_labels=2)
        adam = optimizer(model, lr=1e-3, steps=30)
        ids, labels = inputs(model), torch.tensor([0, 1])
        for step in range(30):
            loss = cross_entropy(model(**ids).logits, labels)
            loss.backward()
            if expanded and step == 3:
                for site in linears(model):
                    adam.take(expand(model, site), True, True)
            adam.step()
        ends.append(float(loss.detach()))
        assert ends[-1] < 0.2
