"""Guards what is told of converted attention with its kernels off: its local mixers alone."""

from itertools import pairwise

import pytest
import torch
from conftest import inputs, output, pico, sentences
from front_door import report_of, saved, tlm

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.kernels import switched_off

FEATURES = DimensionWise(f="features", mixer=3)


@pytest.mark.parametrize("kernel", [FEATURES, MultiLinear(w_o="conv", kernel=3)], ids=str)
def test_without_their_kernels_layers_mix_by_the_mixer_alone(kernel):
    model = pico("gpt2", "lm").eval()
    torch.manual_seed(1)
    attend(model, dict.fromkeys(attention_sites(model), kernel))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".kernel." in name:
                parameter.add_(torch.randn_like(parameter))
    before = output(model)
    ids = inputs(model)["input_ids"]
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 90 + 3
    with switched_off(model), torch.no_grad():
        found, other = (model(input_ids=x).logits for x in (ids, changed))
    assert not torch.equal(found, output(model)) and torch.equal(output(model), before)
    reach = 2 * 2 if kernel is FEATURES else 0  # two layers of three tokens, or of none
    assert torch.equal(found[:, reach + 1 :], other[:, reach + 1 :])
    assert not torch.equal(found[:, reach], other[:, reach])


def test_the_score_after_recovery_is_that_of_the_model_with_its_kernels(tmp_path):
    saved(tmp_path / "bert", "bert", "base")
    (texts := tmp_path / "texts.txt").write_text("\n".join(sentences(120)) + "\n")
    rows = [f"{one}\t{other}\t{len(one) % 6}" for one, other in pairwise(sentences(60))]
    (pairs := tmp_path / "pairs").mkdir()
    for name, some in (("train", rows[:40]), ("dev", rows[42:])):
        (pairs / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *some]))
    words = ["compress", tmp_path / "bert", "--attention", "dimensionwise", "--f", "features"]
    words += ["--calibration", texts, "--data", pairs, "--recover", 6, "-q"]
    assert tlm(*words, "--out", tmp_path / "out") == 0
    found = report_of(tmp_path / "out")
    assert found["attention"]["off"] is not None
    assert found["score"]["after"] == found["recovery"]["recovered"] != found["recovery"]["off"]
