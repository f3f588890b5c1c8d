"""The head in the file is the head: tied, of its own though the config ties it, or untied."""

import json

import pytest
import torch
import transformers
from conftest import auto, inputs, output, pico, word_tokenizer
from torch import nn

from tlmtool.cli import run
from tlmtool.decompositions.svd import SVD
from tlmtool.models import modeling
from tlmtool.models.checkpoint import load
from tlmtool.models.factorized import Factorized
from tlmtool.models.surgery import factorize, sites

FAMILIES = ("bert", "llama", "t5-gated", "bart")
KINDS = ("tied", "own", "untied")


def own_head(model) -> None:
    """As adapters merged over an embedding leave it: another head, the config as it was."""
    head, old = model.get_output_embeddings(), model.get_input_embeddings().weight
    head.weight = nn.Parameter(old.detach() + torch.randn(old.shape))


def written(family: str, kind: str, folder):
    """A checkpoint, and the model that was saved."""
    model = pico(family, "lm", tie_word_embeddings=kind != "untied")
    if (
        kind != "tied"
        and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ):
        own_head(model)
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return model


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_that_comes_back_is_the_one_that_is_reported(family, kind, tmp_path, capsys):
    dense = written(family, kind, tmp_path / "dense")
    words = ["compress", str(tmp_path / "dense"), "--sites", "embedding", "--rank", "5", "-q"]
    words += ["--calibration", "none", "--out", str(tmp_path / "out")]
    assert run([*words, "--dry-run", "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)["parameters"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parameters"]
    for when in ("before", "after"):
        assert predicted[when] == found[when]
    again = auto(family, "lm").from_pretrained(tmp_path / "out").eval()
    assert parameters(dense) == found["before"] and parameters(again) == found["after"]
    table, head = again.get_input_embeddings(), again.get_output_embeddings()
    assert isinstance(table, Factorized) and isinstance(head, Factorized) == (kind == "tied")
    if kind != "tied":
        assert torch.equal(head.weight, dense.get_output_embeddings().weight)
        v, e = dense.get_input_embeddings().weight.shape
        assert found["before"] - found["after"] == v * e - 5 * (v + e)
    again.tie_weights()  # as a change of the vocabulary does
    assert parameters(again) == found["after"]
    merged = modeling.merge(load(tmp_path / "out"))
    merged.save_pretrained(tmp_path / "merged")
    plain = type(dense).from_pretrained(tmp_path / "merged").eval()
    assert parameters(merged) == parameters(plain) == found["before"]
    assert torch.equal(output(plain), output(merged))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5-gated", "bart"])
def test_exact_factors_and_their_merge_keep_both(family, tmp_path):
    dense = written(family, "own", tmp_path / "dense")
    model = load(tmp_path / "dense")
    factorize(model, {s: SVD() for s, r in sites(model).items() if r == "embedding"})
    modeling.adopt(model).save_pretrained(tmp_path / "out")
    again = load(tmp_path / "out")
    assert torch.equal(output(again), output(model))
    assert (output(again) - output(dense)).abs().max() <= 1e-4 * output(dense).abs().max()
    modeling.merge(again).save_pretrained(tmp_path / "merged")
    names = dense.state_dict().keys()
    for whole in (again, load(tmp_path / "merged")):
        assert whole.state_dict().keys() == names
        assert torch.equal(
            whole.get_output_embeddings().weight, dense.get_output_embeddings().weight
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_head_that_is_given_to_a_live_model_is_kept(family, tmp_path):
    model = pico(family, "lm", tie_word_embeddings=True)
    own_head(model)
    factorize(model, {s: SVD(4) for s, r in sites(model).items() if r == "embedding"})
    modeling.adopt(model).save_pretrained(tmp_path)
    again = auto(family, "lm").from_pretrained(tmp_path).eval()
    assert torch.equal(output(again), output(model))
    assert parameters(again) == parameters(model)


def test_a_config_that_ties_nothing_says_so(tmp_path):
    """So that a loader which trusts it alone is right; other ties of the family stand."""
    for family, ties in (("llama", False), ("gpt2", False), ("bert", True), ("t5-gated", True)):
        written(family, "own", tmp_path / family)
        load(tmp_path / family).save_pretrained(tmp_path / "again")
        config = transformers.AutoConfig.from_pretrained(tmp_path / "again")
        assert config.tie_word_embeddings == ties


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_factors_of_a_factorized_table_reach_its_head(family, tmp_path):
    model = pico(family, "lm")
    (site,) = [s for s, r in sites(model).items() if r == "embedding"]
    for rank in (6, 3):
        factorize(model, {site: SVD(rank)})
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert all(head.factors[k] is f for k, f in table.factors.items())
    modeling.adopt(model).save_pretrained(tmp_path)
    assert torch.equal(output(auto(family, "lm").from_pretrained(tmp_path).eval()), output(model))
    assert model(**inputs(model))[0].shape[-1] == 99
    merged = modeling.merge(model)
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
