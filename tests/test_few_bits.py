"""Guards compressions to few bits: no rank and no width keeps a weight from being rounded."""

import json

import pytest
from conftest import pico, sentences, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_allocation import keeps, several

import tlmtool
from tlmtool.cli import run
from tlmtool.compression.allocation import greedy
from tlmtool.models.quantizing import choose
from tlmtool.models.rounding import GROUPS, LEAST, group_of, step_of

SIZES = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT = {"tokenizer": word_tokenizer(), "texts": sentences(20)}
few = settings(max_examples=30, deadline=None, derandomize=True)


def wide(**more):
    """A bert whose layers are wide enough for groups."""
    return pico("bert", "lm", **SIZES, intermediate_size=1100, **more)


@given(st.integers(1, 5000), st.sampled_from([4, 8]), st.booleans())
@few
def test_every_step_has_a_group(highest, bits, shared):
    """Also in groups of one size, of which there are at most three."""
    step = step_of(highest, bits, GROUPS[bits] if shared else LEAST)
    assert step_of(highest, None) == 1
    if step == 1:
        assert highest < 2 * LEAST
        return
    assert 2 * step <= max(highest, step) and step >= LEAST
    assert all(group_of(many * step, bits) for many in range(1, highest // step))
    assert not shared or step in [GROUPS[bits] // n for n in (1, 2, 4)]


@given(several(), keeps, st.sampled_from([4, 8]))
@few
def test_greedy_keeps_whole_groups(spectra, keep, bits):
    """Unless the budget does not reach for one group in every site."""
    coded = {
        site: s.__class__(s.values, s.out_features, s.in_features, 1.0, bits)
        for site, s in spectra.items()
    }
    budgets = greedy(coded, keep)
    total = keep * sum(s.dense for s in coded.values())
    assert sum(budgets.values()) <= total
    even = int(total // sum(s.unit for s in coded.values()))
    for site, s in coded.items():
        rank, step = budgets[site] // s.unit, step_of(s.cut, bits)
        assert budgets[site] == s.dense or rank % step == 0 or rank == min(even, s.cut - 1)


HOW = [
    {"method": "svd", "allocate": "uniform"},
    {"method": "narrow", "allocate": "uniform"},
    {"method": "auto"},
    {"method": "svd", **TEXT},
]


@pytest.mark.parametrize("how", HOW)
def test_all_that_a_compression_makes_can_be_rounded(how):
    """Of a keep that gives rank 131 to square weights, and no group divides a prime."""
    model = wide()
    outcome = tlmtool.compress(model, keep=0.685, bits=8, sites="attention,ffn", **how)
    assert outcome.plan and not choose(model, 8).left


def test_without_bits_some_of_it_cannot_be_rounded():
    model = wide()
    tlmtool.compress(model, keep=0.685, sites="attention,ffn", **HOW[0])
    assert choose(model, 8).left


def test_energy_is_met_in_whole_groups():
    model, floats = wide(), wide()
    how = {"energy": 0.8, "sites": "attention", "method": "svd"}
    plan, most = (tlmtool.compress(m, **how, bits=b).plan for m, b in ((model, 8), (floats, None)))
    for site, found in most.items():
        assert 0 <= plan[site].rank - found.rank < 16 and plan[site].rank % 16 == 0


@pytest.mark.parametrize("bits", [8, 4])
def test_a_plain_checkpoint_has_no_weight_in_floats(bits, tmp_path, capsys):
    """The width is one that the groups of the whole checkpoint divide."""
    model = pico("llama", "lm", hidden_size=64, intermediate_size=200)
    model.save_pretrained(tmp_path / "m")
    words = ["compress", tmp_path / "m", "--calibration", "none", "--sites", "ffn", "--keep", 0.8]
    words += ["--plain", "--bits", bits, "--embedding-bits", bits, "--out", tmp_path / "out"]
    assert run([*map(str, words), "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert not [text for text in report["warnings"] if "stay floats" in text]
    width = json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"]
    assert width % GROUPS[bits] == 0 and 0.8 * 200 - GROUPS[bits] < width <= 0.8 * 200
    assert report["quantization"]["plain"]
