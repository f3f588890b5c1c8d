"""`resize_token_embeddings`: a factorized table grows and shrinks as the dense one would."""

import pytest
import torch
from conftest import V, auto, inputs, output, pico
from torch import nn

from tlmtool.decompositions.svd import SVD
from tlmtool.models import modeling
from tlmtool.models.factorized import Factorized
from tlmtool.models.surgery import factorize, sites

FAMILIES = ("bert", "roberta", "distilbert", "electra", "gpt2", "opt", "llama", "t5", "bart")
RANK = 5


def compressed(family: str, roles: tuple[str, ...] = ("embedding",), **more):
    model = pico(family, "lm", **more)
    plan = {site: SVD(RANK) for site, role in sites(model).items() if role in roles}
    factorize(model, plan)
    return modeling.adopt(model).eval()


def assert_whole(model, family: str, folder) -> None:
    """It runs, comes back and merges."""
    model.save_pretrained(folder)
    again = auto(family, "lm").from_pretrained(folder).eval()
    assert torch.equal(output(again), output(model))
    merged = modeling.merge(again)
    assert (output(merged) - output(model)).abs().max() <= 1e-4 * output(model).abs().max()
    assert merged.get_input_embeddings().num_embeddings == model.config.vocab_size


@pytest.mark.parametrize(
    ("family", "tied"),
    [*((f, True) for f in FAMILIES), *((f, False) for f in ("distilbert", "gpt2", "llama"))],
)
def test_rows_of_a_factorized_table(family, tied, tmp_path):
    model = compressed(family, tie_word_embeddings=tied)
    table, before = model.get_input_embeddings().dense_weight(), output(model)
    shared = isinstance(model.get_output_embeddings(), Factorized)
    for rows in (V + 8, V - 4):
        found = model.resize_token_embeddings(rows)
        assert found is model.get_input_embeddings() and model.config.vocab_size == rows
        now = found.dense_weight()
        n = min(rows, V)
        assert now.shape == (rows, table.shape[1]) and torch.equal(now[:n], table[:n])
        logits = output(model)
        assert logits.shape[-1] == rows or family == "electra"
        if rows > V:
            assert (now[V:] - table.mean(0)).abs().max() <= 1e-2 * table.abs().max()
            assert (logits[..., :V] - before).abs().max() <= 1e-5 * before.abs().max()
        head = model.get_output_embeddings()
        if shared:
            assert all(head.factors[k] is f for k, f in found.factors.items())
        assert_whole(model, family, tmp_path / str(rows))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_a_dense_table_beside_factors(family, tmp_path):
    model = compressed(family, ("up", "output", "qkv"))
    model.resize_token_embeddings(V + 8)
    assert output(model).shape[-1] == V + 8
    assert_whole(model, family, tmp_path)


def test_a_resized_table_learns():
    model = compressed("gpt2", tie_word_embeddings=True).train()
    model.resize_token_embeddings(V + 8)
    ids = torch.full((1, 4), V + 2)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(f.grad is not None for f in model.get_input_embeddings().factors.values())
    model.tie_weights()
    assert model.get_output_embeddings().factors["left"].shape[0] == V + 8


def test_what_cannot_be_is_one_sentence():
    model = compressed("gpt2", tie_word_embeddings=True)
    before = output(model)
    with pytest.raises(ValueError, match=r"rank 5 cannot have 4 rows: run `tlm merge`"):
        model.resize_token_embeddings(4)
    for change, value in (
        (model.set_input_embeddings, nn.Embedding(V, 32)),
        (model.set_output_embeddings, nn.Linear(32, V, bias=False)),
    ):
        with pytest.raises(ValueError, match=r"held as factors: run `tlm merge`"):
            change(value)
    assert torch.equal(model(**inputs(model))[0], before)
    with pytest.raises(ValueError, match=r"tables of their own: run `tlm merge`"):
        compressed("bart", tie_word_embeddings=False).resize_token_embeddings(V + 8)
