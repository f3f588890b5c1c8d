"""One convention of FLOPs: a model spends, beyond its linears, what its kernels alone count."""

import json

import pytest
from conftest import pico

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.cli import run
from tlmtool.measuring.complexity import NOTE as OF_KERNELS
from tlmtool.measuring.complexity import Case, Softmax
from tlmtool.measuring.counting import CONVENTION, SCORES, forward_flops
from tlmtool.measuring.profiling import NOTE as OF_MODELS
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.surgery import sites

N, BATCH = 48, 2
KERNELS = {
    "cosine": DimensionWise(),
    "several kernels": DimensionWise(kernels=2, f="scale"),
    "mixer": DimensionWise(mixer=5),
    "mixer of rank": DimensionWise(rank=2, mixer=3),
    "rank": DimensionWise(rank=1),
    "conv": MultiLinear("conv", kernel=4),
    "decay": MultiLinear("decay", terms=3),
    "full": MultiLinear("full", length=N),
    "full core": MultiLinear("decay", core="full"),
    "blocks": MultiLinear("conv", blocks=2, rank=4),
}
ONE = {"bert": {"num_hidden_layers": 1}, "gpt2": {"n_layer": 1}, "llama": {"num_hidden_layers": 1}}


def scores(model) -> int:
    """What a model spends beyond its linears, embeddings and head."""
    found = forward_flops(model, N, BATCH, sites(model))
    assert sum(found["by_part"].values()) == found["total"]
    return found["by_part"][SCORES]


@pytest.mark.parametrize("family", ONE)
def test_softmax_counts_the_same_pairs_alone_and_in_a_model(family):
    case = Case(4, 8, 32, BATCH, causal=family != "bert")
    assert scores(pico(family, **ONE[family])) == case.flops(Softmax(), N) == 4 * BATCH * N * N * 32


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, n) for f in ONE for n in KERNELS if (f, n) != ("llama", "blocks")],  # it keeps its heads
)
def test_a_kernel_counts_the_same_alone_and_in_a_model(family, name):
    kernel, model = KERNELS[name], pico(family, **ONE[family])
    attend(model, dict.fromkeys(attention_sites(model), kernel))
    case = Case(4, 8, 32, BATCH, causal=family != "bert")
    assert scores(model) == case.flops(kernel, N)


@pytest.mark.parametrize("causal", [False, True])
def test_a_mixer_costs_what_a_convolution_does(causal):
    case = Case(4, 8, 32, BATCH, causal)
    plain, mixed = (case.flops(DimensionWise(mixer=w), N) for w in (0, 5))
    assert mixed - plain == 2 * BATCH * 4 * 8 * N * 5


def test_every_report_says_the_convention(tmp_path, capsys):
    assert CONVENTION in OF_KERNELS and CONVENTION in OF_MODELS
    pico("bert").save_pretrained(tmp_path / "m")
    assert run(["compress", str(tmp_path / "m"), "--rank", "2", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flops"]["note"].endswith(CONVENTION)
