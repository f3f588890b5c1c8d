"""Guards alignment: each converted layer learns by itself, before layers are chosen and before the
whole model is trained; and what is left when kernels are switched off."""

from itertools import pairwise

import pytest
import torch
from conftest import inputs, output, pico, sentences
from front_door import report_of, saved, tensors, tlm

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.compression.conversion import put
from tlmtool.measuring.inputs import takes
from tlmtool.models.attending import attend, attention_sites
from tlmtool.models.kernels import switched_off
from tlmtool.models.surgery import plan_of
from tlmtool.training.aligning import Alignment, attention_alone

FEATURES = DimensionWise(f="features", mixer=3)
LEARNED = ["--attention", "dimensionwise", "--f", "features"]


class Lessons:
    """The objective that an alignment gets its batches and its teacher from."""

    def __init__(self, teacher):
        self.teacher, self.lengths = teacher, [9, 9]

    def part(self, places, epoch):
        return inputs(self.teacher)["input_ids"][places]

    def of_teacher(self, part):
        more = {"use_cache": False} if takes(self.teacher, "use_cache") else {}
        return inputs(self.teacher) | more


def aligning(family, kernel):
    """(a dense model, the same one converted, the alignment of the two)."""
    dense, model = pico(family, "lm").eval(), pico(family, "lm").eval()
    model.load_state_dict(dense.state_dict())
    torch.manual_seed(1)
    attend(model, dict.fromkeys(attention_sites(model), kernel))
    return dense, model, Alignment(model, Lessons(dense))


def loss_of(alignment, model):
    part = alignment.part([0, 1], 0)
    return alignment.loss(model, model, part) / alignment.count(part)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
@pytest.mark.parametrize("kernel", [FEATURES, MultiLinear(w_o="conv", kernel=3)], ids=str)
def test_layers_learn_their_outputs_and_nothing_else_moves(family, kernel):
    _, model, alignment = aligning(family, kernel)
    held = {name: x.clone() for name, x in model.named_parameters()}
    with attention_alone(model):
        adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
        first = float(loss_of(alignment, model).detach())
        for _ in range(20):
            adam.zero_grad()
            loss_of(alignment, model).backward()
            adam.step()
    assert float(loss_of(alignment, model).detach()) < 0.8 * first
    assert all(p.requires_grad for p in model.parameters())
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, held[name])}
    parts = ("attn", "attention")
    assert moved and all(any(part in name for part in parts) for name in moved)


def test_a_layer_reads_what_the_dense_model_gives():
    """Another converted layer, or a change of any other weight, does not move its error."""
    _, model, alignment = aligning("bert", FEATURES)
    path = attention_sites(model)[1]
    alignment.paths = {path: alignment.paths[path]}
    before = float(loss_of(alignment, model).detach())
    with torch.no_grad():
        for name, parameter in model.base_model.named_parameters():
            if not name.startswith("encoder.layer.1.attention"):
                parameter.add_(1.0)
    assert float(loss_of(alignment, model).detach()) == before


def test_a_layer_that_gives_the_same_has_no_error():
    """A teacher that is converted alike."""
    _, model, alignment = aligning("llama", FEATURES)
    alignment.teacher = model
    assert float(loss_of(alignment, model).detach()) < 1e-9


@pytest.mark.parametrize("kernel", [FEATURES, MultiLinear(w_o="conv", kernel=3)], ids=str)
def test_without_their_kernels_layers_mix_by_the_mixer_alone(kernel):
    _, model, _ = aligning("gpt2", kernel)
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


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_converted_module_moves_to_another_model(family):
    dense, model, _ = aligning(family, FEATURES)
    for path in attention_sites(model):
        put(model, dense, path)
    assert plan_of(dense) == plan_of(model) and torch.equal(output(dense), output(model))


# ---- the command


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Two models, and texts."""
    folder = tmp_path_factory.mktemp("aligning")
    saved(folder / "bert", "bert", "base")
    saved(folder / "gpt2", "gpt2", "lm")
    (folder / "texts.txt").write_text("\n".join(sentences(120)) + "\n")
    return folder


def compressed(room, family, out, *more):
    words = ["compress", room / family, *LEARNED, "--calibration", room / "texts.txt", "-q"]
    words += ["--recover-window", 16] if family == "gpt2" else ["--data", room / "texts.txt"]
    return tlm(*words, "--recover", 6, "--out", out, *more)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_alignment_is_part_of_the_steps(room, family, tmp_path):
    align = ("--set", "recovery.align=4", "--recover-window", 16)[: 2 if family == "bert" else 4]
    assert compressed(room, family, tmp_path / "out", *align) == 0
    found = report_of(tmp_path / "out")["recovery"]
    assert found["steps"] == 6 and found["aligned"]["steps"] == 4
    assert [each["step"] for each in found["course"]] == [1, 2]
    assert found["off"] != found["recovered"]
    assert report_of(tmp_path / "out")["attention"]["off"] is not None


def test_the_score_after_is_that_of_the_model_with_its_kernels(room, tmp_path):
    rows = [f"{one}\t{other}\t{len(one) % 6}" for one, other in pairwise(sentences(60))]
    (pairs := tmp_path / "pairs").mkdir()
    for name, some in (("train", rows[:40]), ("dev", rows[42:])):
        (pairs / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *some]))
    assert compressed(room, "bert", tmp_path / "out", "--data", pairs) == 0
    found = report_of(tmp_path / "out")
    assert found["score"]["after"] == found["recovery"]["recovered"] != found["recovery"]["off"]


def test_alignment_alone_leaves_all_but_attention(room, tmp_path):
    assert compressed(room, "bert", tmp_path / "out", "--set", "recovery.align=6") == 0
    assert report_of(tmp_path / "out")["recovery"]["course"] == []
    before, after = tensors(room / "bert"), tensors(tmp_path / "out")
    moved = {n for n, x in before.items() if n in after and not torch.equal(x, after[n])}
    assert moved and all("attention" in name and "LayerNorm" not in name for name in moved)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_few_bits_is_aligned_in_float32(room, dtype, tmp_path):
    align = ("--set", "recovery.align=3", "--set", "recovery.precision=float32")
    assert compressed(room, "bert", tmp_path / "out", "--dtype", dtype, *align) == 0
    assert report_of(tmp_path / "out")["recovery"]["aligned"]["first"] > 0


def test_tokens_are_those_of_the_batches_that_were_trained_on(room, tmp_path):
    """12 windows of 16 in batches of 5, 5 and 2: half of 6 steps are for alignment."""
    (tmp_path / "short.txt").write_text("\n".join(sentences(30)) + "\n")
    more = ("--recover-data", tmp_path / "short.txt", "--recover-batch", 5)
    align = ("--set", "recovery.align=3")
    assert compressed(room, "gpt2", tmp_path / "out", *more, *align) == 0
    found = report_of(tmp_path / "out")["recovery"]
    assert found["windows"] == 12 and found["tokens"] == 2 * 12 * 16


def test_layers_are_chosen_after_alignment(room, tmp_path):
    more = ("--max-loss-increase", 100, "--set", "recovery.align=6")
    assert compressed(room, "bert", tmp_path / "out", *more) == 0
    found = report_of(tmp_path / "out")
    assert found["recovery"]["aligned"]["steps"] == 6 and len(found["attention"]["alone"]) == 2
    assert found["recovery"]["compressed"] == found["recovery"]["recovered"]  # no step was left


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "recovery.align=7"], "recovery.align is 7, and --recover 6 has fewer steps"),
        (
            ["--set", "recovery.align=1", "--set", "recovery.layers=pooler"],
            "of which recovery.layers names none",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused(more, said, room, tmp_path, capsys):
    assert compressed(room, "bert", tmp_path / "out", *more) == 2
    assert said in capsys.readouterr().err


def test_alignment_needs_attention_that_is_converted(room, tmp_path, capsys):
    words = ["compress", room / "bert", "--rank", 2, "--recover", 3, "--data", room / "texts.txt"]
    assert tlm(*words, "--set", "recovery.align=1", "--out", tmp_path / "out", "-q") == 2
    assert "recovery.align trains converted attention: give --attention" in capsys.readouterr().err
