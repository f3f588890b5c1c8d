"""What tests of converted models share: plans, models with factors, exact comparison."""

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, inputs, output, pico
from torch import nn
from transformers import PreTrainedModel

from tlmtool.decompositions import Decomposition, named
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.cp import CP
from tlmtool.decompositions.mpo import MPO
from tlmtool.decompositions.svd import SVD
from tlmtool.decompositions.tucker import Tucker
from tlmtool.models import modeling
from tlmtool.models.surgery import Plan, factorize, modes, plan_of, sites

FAMILY = pytest.mark.parametrize("family", CONFIGS)


def spec(name: str, split: tuple[int, int] | None) -> Decomposition:
    """A small decomposition; of rank 2 where it is not listed."""
    known = {
        "svd": SVD(4),
        "cp": CP(4, modes=split),
        "tucker": Tucker(3, modes=split),
        "btd": BTD(2, blocks=2, modes=split),
        "mpo": MPO(4),
    }
    heads = {"modes": split} if named(name).takes_heads else {}
    return known.get(name) or named(name)(2, **heads)


def plan_for(model: PreTrainedModel, name: str, embedding: bool = False) -> Plan:
    """One decomposition at every site; svd of rank 5 at the embedding."""
    found = sites(model).items()
    plan = {s: spec(name, modes(model, s, r)) for s, r in found if r != "embedding"}
    return plan | {s: SVD(5) for s, r in found if r == "embedding" and embedding}


def compressed(
    family: str, head: str = "base", name: str = "svd", embedding: bool = False, **more
) -> PreTrainedModel:
    model = pico(family, head, **more)
    factorize(model, plan_for(model, name, embedding))
    modeling.adopt(model)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def loaded(cls: type, folder: Path, **kwargs) -> PreTrainedModel:
    """A model of a folder, nothing of it missing, left over, or of another shape."""
    model, info = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert not any(info.values()), info
    return model


def assert_same(a: PreTrainedModel, b: PreTrainedModel) -> None:
    """Difference exactly 0, in every tensor and in what comes out."""
    assert type(a) is type(b) and plan_of(a) == plan_of(b)
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype for k, v in ours.items())
    assert {n for n, _ in a.named_parameters()} == {n for n, _ in b.named_parameters()}
    assert torch.equal(output(a), output(b))


def table_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def first_token(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {k: v for k, v in inputs(model).items() if k != "decoder_input_ids"}
