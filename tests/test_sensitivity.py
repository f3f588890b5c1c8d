"""Guards output metrics, block by block: against one whole backward pass and the Jacobian."""

from collections.abc import Callable

import pytest
import torch
from conftest import CONFIGS, pico
from test_calibration import TEXTS, linears, padded, tokens
from torch import Tensor, nn

from tlmtool.compression import sensitivity
from tlmtool.compression.calibration import DAMPING
from tlmtool.compression.sensitivity import output_metrics
from tlmtool.compression.walking import Place, places_of
from tlmtool.data.batching import Batch
from tlmtool.measuring.outputs import last_hidden
from tlmtool.models.surgery import sites

FAMILY = pytest.mark.parametrize("family", CONFIGS)


def measured(model: nn.Module, names: list[str], batches: list[Batch], seed: int = 0) -> dict:
    """{site: G}, all blocks together, in the order of the names."""
    tables = [s for s in names if s not in linears(model)]
    places = places_of(model, [s for s in names if s not in tables], batches[0])
    places += [Place("", 0, [table]) for table in tables]
    found: dict[str, Tensor] = {}
    for part in output_metrics(model, places, batches, seed):
        assert not set(part) & set(found)
        found |= part
    return {site: found[site] for site in names if site in found}


def noting(site: str, outputs: list[tuple[str, Tensor]]) -> Callable:
    return lambda module, args, output: outputs.append((site, output))


def in_one_piece(model: nn.Module, names: list[str], batches: list[Batch], seed: int) -> dict:
    """The same from one graph of the whole model, as G is defined."""
    base, generator = model.base_model, torch.Generator().manual_seed(seed)
    rows: dict[str, list[Tensor]] = {site: [] for site in names}
    for batch in batches:
        outputs: list[tuple[str, Tensor]] = []
        handles = []
        for site in names:
            module = base.get_submodule(site)
            shared = [
                m
                for m in base.modules()
                if m is module or (isinstance(m, nn.Embedding) and m.weight is module.weight)
            ]
            for m in shared:
                handles.append(m.register_forward_hook(noting(site, outputs)))
        hidden = last_hidden(model, batch)
        v = torch.randn(hidden.shape, generator=generator)
        mask = batch.inputs["attention_mask"]
        aim = (hidden * v * mask[..., None]).sum()
        grads = torch.autograd.grad(aim, [y for _, y in outputs], allow_unused=True)
        for (site, _), grad in zip(outputs, grads, strict=True):
            if grad is not None:
                rows[site].append(grad.flatten(0, -2)[mask.flatten().bool()].double())
        for handle in handles:
            handle.remove()
    return {s: g.T @ g / len(g) for s, r in rows.items() if r and len(g := torch.cat(r))}


@pytest.mark.parametrize("room", [0, 10**9])
@FAMILY
def test_block_by_block_is_the_same_as_in_one_piece(family, room, monkeypatch):
    """All sites and tables; between blocks outputs lie on disk (room 0) or in memory."""
    monkeypatch.setattr(sensitivity, "ROOM", room)
    model, batches = pico(family), tokens(TEXTS)
    assert len(batches) > 1
    names = list(sites(model))
    found, exact = measured(model, names, batches, 5), in_one_piece(model, names, batches, 5)
    assert list(found) == list(exact) and len(exact) > 8
    for site, g in exact.items():
        g += DAMPING * g.trace() / len(g) * torch.eye(len(g))
        close = {"rtol": 1e-3, "atol": 1e-5 * float(g.diagonal().mean())}
        torch.testing.assert_close(found[site], g, **close)


def test_blocks_below_the_lowest_site_are_not_run_back():
    model, batches = pico("bert"), tokens(TEXTS)
    site = "encoder.layer.1.output.dense"
    found = measured(model, [site], batches)
    assert torch.equal(found[site], measured(model, linears(model), batches)[site])
    assert len(list(output_metrics(model, [Place("encoder.layer", 1, [site])], batches))) == 1


def jacobian(model, site: str, batch: Batch) -> torch.Tensor:
    """d last hidden state / d output of a site at each token, of a batch of one: (N E, N, O)."""
    module = model.base_model.get_submodule(site)
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda m, args, y: outputs.append(y.detach()))
    with torch.no_grad():
        last_hidden(model, batch)
    handle.remove()

    def hidden(y: torch.Tensor) -> torch.Tensor:
        swap = module.register_forward_hook(lambda m, args, old: y)
        try:
            return last_hidden(model, batch)
        finally:
            swap.remove()

    found = torch.autograd.functional.jacobian(hidden, outputs[0])
    return found[0].flatten(0, 1)[:, 0].double()


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_output_metrics_are_the_gauss_newton_matrix(family):
    """A text 1024 times gives as many draws of v. With g normal of covariance G the squared error
    of one draw is tr(G)^2 + |G|^2 at most, so that of their mean a 1024th; allowed is twice that.
    """
    model, repeats = pico(family), 1024
    (one,) = tokens([TEXTS[2]])
    inputs = {k: v.expand(repeats, -1) for k, v in one.inputs.items()}
    many = Batch([0] * repeats, inputs, one.special.expand(repeats, -1))
    names = linears(model)[:: 5 if family == "t5" else 2]
    found = measured(model, names, [many])
    assert list(found) == names
    for site in names:
        j = jacobian(model, site, one)
        exact = torch.einsum("hto,htp->op", j, j) / j.shape[1]
        exact += DAMPING * exact.trace() / len(exact) * torch.eye(len(exact))
        allowed = float((exact.trace() ** 2 + exact.square().sum()) / repeats) ** 0.5
        off = float((found[site] - exact).norm())
        assert off < 2 * allowed, site
        assert 2 * allowed < 0.4 * float(exact.norm())  # so that a factor of 2 shows


def test_output_metrics_repeat_with_a_seed_and_leave_the_model_as_it_was():
    model, batches = pico("bert").train(), tokens(TEXTS)
    model.pooler.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    names = linears(model)
    first, again, other = (measured(model, names, batches, s) for s in (3, 3, 4))
    assert all(torch.equal(first[s], again[s]) for s in names)
    assert not any(torch.equal(first[s], other[s]) for s in names)
    assert [p.requires_grad for p in model.parameters()] == flags and model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", ["bert", "opt", "bart"])
def test_output_metrics_do_not_see_padding(family):
    """A longer draw of v begins with the numbers of a shorter one."""
    model, (batch,) = pico(family), tokens(TEXTS[:1])
    names = linears(model)
    plain, wider = (measured(model, names, [b]) for b in (batch, padded(batch, 5)))
    for site in names:
        close = {"rtol": 1e-3, "atol": 1e-4 * float(plain[site].diagonal().mean())}
        torch.testing.assert_close(wider[site], plain[site], **close)
