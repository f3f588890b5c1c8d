"""Guards what is measured on calibration text, against plain computations of the same."""

import tempfile

import pytest
import torch
from conftest import CONFIGS, WORDS, V, pico, word_tokenizer
from torch.nn.functional import pad

from tlmtool.compression import calibration
from tlmtool.compression.calibration import (
    DAMPING,
    Moments,
    Shelf,
    cholesky_,
    input_moments,
    prepared,
    product,
    split,
    token_frequencies,
)
from tlmtool.compression.statistics import sample
from tlmtool.compression.walking import Walk, places_of
from tlmtool.data.batching import Batch
from tlmtool.measuring.outputs import last_hidden
from tlmtool.models.surgery import sites

FAMILY = pytest.mark.parametrize("family", CONFIGS)
TEXTS = [" ".join(WORDS[k % 11] for k in range(n, 3 * n)) for n in (9, 5, 3, 2, 1)]


def linears(model) -> list[str]:
    return [s for s, role in sites(model).items() if role not in ("embedding", "other")]


def groups_of(model, batch: Batch) -> list[list[str]]:
    return [place.group for place in places_of(model, linears(model), batch)]


def tokens(texts: list[str]) -> list[Batch]:
    return prepared(pico("bert"), word_tokenizer(), texts, 64, 64)


def padded(batch: Batch, more: int) -> Batch:
    """The same texts with more columns of padding, of a token that no text holds."""
    fill = {"input_ids": 98}
    wider = {k: pad(v, (0, more), value=fill.get(k, 0)) for k, v in batch.inputs.items()}
    return Batch(batch.indices, wider, pad(batch.special, (0, more), value=1))


@torch.no_grad()
def seen(model, site: str, batches: list[Batch]) -> torch.Tensor:
    """The inputs (T, I) of a site at real tokens, text by text without any padding."""
    rows: list[torch.Tensor] = []
    module = model.base_model.get_submodule(site)
    handle = module.register_forward_pre_hook(lambda m, args: rows.append(args[0].flatten(0, -2)))
    for batch in batches:
        for k, length in enumerate(batch.inputs["attention_mask"].sum(1).tolist()):
            one = {n: v[k : k + 1, :length] for n, v in batch.inputs.items()}
            last_hidden(model, Batch([0], one, batch.special[k : k + 1, :length]))
    handle.remove()
    return torch.cat(rows).double()


@FAMILY
def test_moments_are_those_of_the_inputs_without_padding(family):
    """Float32 sums of batches beside float64 sums of texts alone: what remains is rounding."""
    model, batches = pico(family), tokens(TEXTS)
    assert len(batches) > 1 and any((b.inputs["attention_mask"] == 0).any() for b in batches)
    groups = groups_of(model, batches[0])
    for group, found in zip(groups, input_moments(Walk(model, batches), groups), strict=True):
        x = seen(model, group[0], batches)
        assert found.count == len(x) == sum(int(b.inputs["attention_mask"].sum()) for b in batches)
        assert found.mean.dtype == found.second.dtype == torch.float64
        close = {"rtol": 1e-4, "atol": 1e-5 * float(x.square().mean())}
        torch.testing.assert_close(found.mean, x.mean(0), **close)
        torch.testing.assert_close(found.second, x.T @ x / len(x), **close)


@FAMILY
def test_more_padding_changes_nothing(family):
    model, batches = pico(family), tokens(TEXTS)
    groups = groups_of(model, batches[0])
    wider = [padded(batch, 5) for batch in batches]
    first, second = (input_moments(Walk(model, given), groups) for given in (batches, wider))
    for a, b in zip(first, second, strict=True):
        assert a.count == b.count
        close = {"rtol": 1e-4, "atol": 1e-5 * float(a.second.diagonal().mean())}
        torch.testing.assert_close(a.second, b.second, **close)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_parts_give_the_moments_of_one_pass(family):
    """Each group alone stops its forward pass early and must find the very same numbers."""
    model, batches = pico(family), tokens(TEXTS)
    groups = groups_of(model, batches[0])
    whole = input_moments(Walk(model, batches), groups)
    for group, found in zip(groups, whole, strict=True):
        (alone,) = input_moments(Walk(model, batches), [group])
        assert alone.count == found.count and torch.equal(alone.second, found.second)


@FAMILY
def test_sites_of_one_input_are_a_group_in_the_order_of_the_run(family):
    model, batches = pico(family), tokens(TEXTS)
    names, inputs = linears(model), {}
    groups = groups_of(model, batches[0])
    for site in names:
        model.base_model.get_submodule(site).register_forward_pre_hook(
            lambda module, args, site=site: inputs.setdefault(site, args[0].clone())
        )
    with torch.no_grad():
        last_hidden(model, batches[0])
    assert sorted(site for group in groups for site in group) == sorted(names)
    places = [list(inputs).index(group[0]) for group in groups]
    assert places == sorted(places)
    for k, group in enumerate(groups):
        x = inputs[group[0]]
        assert all(torch.equal(inputs[site], x) for site in group)
        assert not any(torch.equal(inputs[before[0]], x) for before in groups[:k])
    roles = sites(model)
    together = {frozenset(roles[site] for site in group) for group in groups}
    attention = {"qkv"} if family == "gpt2" else {"query", "key", "value"}
    assert attention in together and {"output"} in together and {"down"} in together


def test_a_group_in_training_mode_is_measured_without_dropout():
    model, batches = pico("bert").train(), tokens(TEXTS)
    model.encoder.layer[0].eval()
    before = [m.training for m in model.modules()]
    groups = groups_of(model, batches[0])
    (found,) = input_moments(Walk(model, batches), groups[-1:])
    assert [m.training for m in model.modules()] == before
    assert torch.equal(
        found.second, input_moments(Walk(model.eval(), batches), groups[-1:])[0].second
    )


def test_energy_and_covariance_of_moments():
    x, w = torch.randn(54, 6, generator=torch.Generator().manual_seed(0)).double().split([50, 4])
    x = x + 1
    found = Moments(50, x.mean(0), x.T @ x / 50)
    assert float(found.energy(w)) == pytest.approx(float((x @ w.T).square().sum(1).mean()))
    torch.testing.assert_close(found.covariance(True), torch.cov(x.T, correction=0))
    torch.testing.assert_close(found.covariance(False), found.second)
    c = torch.cov(x.T, correction=0)
    torch.testing.assert_close(found.metric(True), c + DAMPING * c.trace() / 6 * torch.eye(6))


def test_split_keeps_all_texts_and_tokens():
    (batch,) = prepared(pico("bert"), word_tokenizer(), TEXTS, 64, 10**6)
    for room in (1, 20, 45, 10**6):
        parts = split([batch], room)
        assert [i for part in parts for i in part.indices] == batch.indices
        for part in parts:
            mask = part.inputs["attention_mask"].bool()
            assert mask.sum(1).max() == mask.shape[1] == part.special.shape[1]
            assert mask.numel() <= max(room, mask.shape[1])
            for row, index in enumerate(part.indices):
                whole, k = batch.inputs["attention_mask"].bool(), batch.indices.index(index)
                for name, values in part.inputs.items():
                    assert torch.equal(values[row][mask[row]], batch.inputs[name][k][whole[k]])


def test_prepared_batches_hold_every_text_cut_to_what_the_model_can():
    long = " ".join(WORDS * 20)
    batches = prepared(pico("bert"), word_tokenizer(), [long, *TEXTS], 128, 100)
    assert sorted(i for b in batches for i in b.indices) == list(range(6))
    assert max(b.inputs["input_ids"].shape[1] for b in batches) == 64  # its position table
    assert all(b.inputs["input_ids"].numel() <= 100 for b in batches)


def test_token_frequencies_count_real_tokens():
    ids = [token for text in word_tokenizer()(TEXTS)["input_ids"] for token in text]
    counts = torch.tensor([ids.count(token) + 0.5 for token in range(V)]).double()
    torch.testing.assert_close(token_frequencies(tokens(TEXTS), V), counts / counts.sum())


def test_a_shelf_spills_beyond_its_room(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = {f"s{k}": torch.randn(4, 4).double().T for k in range(5)}  # 128 bytes each
    shelf = Shelf(600)
    for site, value in values.items():
        shelf.put(site, [value, 2 * value])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    cpu = torch.device("cpu")
    for site, value in values.items():
        found, double = shelf.get(site, cpu)
        assert torch.equal(found, value) and torch.equal(double, 2 * value)
    with pytest.raises(KeyError):
        shelf.get("other", cpu)
    del shelf
    assert not list(tmp_path.iterdir())


def test_moments_of_many_numbers_are_kept_in_float32(monkeypatch):
    model = pico("bert")
    batches, group = tokens(TEXTS), ["encoder.layer.0.output.dense"]
    found = []
    monkeypatch.setattr(calibration, "STRIPE", 10)  # the last stripe of the 48 columns is narrower
    for large in (2**25, 0):
        monkeypatch.setattr(calibration, "LARGE", large)
        found += input_moments(Walk(model, batches), [group])
    whole, half = found
    assert (whole.second.dtype, half.second.dtype) == (torch.float64, torch.float32)
    assert half.covariance(True).dtype == torch.float64
    torch.testing.assert_close(half.covariance(True), whole.covariance(True), atol=1e-5, rtol=1e-4)
    weight = torch.randn(8, len(whole.mean)).double()
    torch.testing.assert_close(half.energy(weight), whole.energy(weight), atol=0, rtol=1e-5)


def test_a_cholesky_factor_takes_the_place_of_its_matrix():
    x = torch.randn(9, 12).double()
    c = x @ x.T
    kept = c.clone()
    factor = cholesky_(kept)
    torch.testing.assert_close(factor @ factor.mT, c)
    assert torch.equal(factor, factor.tril()) and factor.data_ptr() == kept.data_ptr()


@pytest.mark.parametrize("size", [1, 63, 65, 300])
def test_a_product_with_itself_is_the_whole_product(size):
    x = torch.randn(17, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(product(x, x), product(x, x.clone()))


def test_a_plan_reads_a_part_that_is_spread_over_the_text():
    batches = prepared(pico("bert"), word_tokenizer(), [" ".join(WORDS)] * 40, 64, 64)
    total = sum(int(each.inputs["attention_mask"].sum()) for each in batches)
    assert [each.indices for each in sample(batches, total, 64)] == [b.indices for b in batches]
    some = sample(batches, total // 4, 64)
    assert len(some) == len(batches) // 4
    assert some[0].indices == batches[0].indices and some[-1].indices[0] >= 20
