"""Guards kernels inside models: exact re-load, no leak through the whole model, cached decoding."""

import pytest
import torch
from conftest import CAUSAL, CONFIGS, MASKED, auto, inputs, output, pico, type_of

from tlmtool.attention import NAMES, named
from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.cli import run
from tlmtool.decompositions.svd import SVD
from tlmtool.models.architectures import ARCHITECTURES
from tlmtool.models.attending import ROTARY, attend, attention_sites
from tlmtool.models.checkpoint import load
from tlmtool.models.kernels import converted
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, plan_of, sites

KERNELS = {
    "dimensionwise": DimensionWise(mixer=3),
    "two kernels": DimensionWise(kernels=2, f="features", rank=3),
    "decay": MultiLinear(w_o="decay", terms=3),
    "conv": MultiLinear(w_o="conv", kernel=3, core="full"),
    "own blocks": MultiLinear(w_o="decay", terms=2, blocks=2, rank=6),
    "full": MultiLinear(w_o="full", length=16),
}
TAKING = [family for family in CONFIGS if not ARCHITECTURES[type_of(family)].refuses]


def rotary(family: str) -> bool:
    """Whether its attention rotates q and k by position, and so keeps its heads."""
    model = pico(family)
    module = model.base_model.get_submodule(attention_sites(model)[0])
    return ROTARY in module.forward.__code__.co_varnames


TURNING = [family for family in TAKING if rotary(family)]
KERNELS |= {n: named(n)() for n in NAMES if n not in {each.name for each in KERNELS.values()}}
CASES = [
    (family, name)
    for family in TAKING
    for name, kernel in KERNELS.items()
    if not (family in TURNING and name == "own blocks") and (kernel.causal or family in MASKED)
]
DECODERS = [(f, k) for f, k in CASES if f in CAUSAL]


def made(family: str, kernel: str, head: str = "lm", layers: slice = slice(None), **more):
    model = pico(family, head, **more)
    plan = dict.fromkeys(attention_sites(model)[layers], KERNELS[kernel])
    torch.manual_seed(1)
    attend(model, plan)
    with torch.no_grad():  # off their start, where some outputs are small
        for name, parameter in model.named_parameters():
            if ".kernel." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return adopt(model).eval()


@pytest.mark.parametrize(("family", "kernel"), CASES)
def test_a_model_re_loads_exactly(family, kernel, tmp_path):
    model = made(family, kernel)
    model.save_pretrained(tmp_path)
    again = auto(family, "lm").from_pretrained(tmp_path).eval()
    assert plan_of(again) == plan_of(model) and len(plan_of(model)) >= 2
    assert torch.equal(output(again), output(model))


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
def test_factors_and_kernels_stand_in_one_plan(family, tmp_path):
    model = made(family, "dimensionwise", layers=slice(0, 1))
    rest = [s for s, role in sites(model).items() if role in ("query", "qkv", "up")]
    factorize(model, dict.fromkeys(rest, SVD(rank=4)))
    adopt(model).save_pretrained(tmp_path)
    again = auto(family, "lm").from_pretrained(tmp_path).eval()
    assert len(plan_of(again)) == 1 + len(rest)
    assert torch.equal(output(again), output(model))


def test_merging_factors_leaves_the_kernels(tmp_path):
    model = made("bert", "dimensionwise", layers=slice(0, 1))
    before = output(model)
    factorize(model, {"encoder.layer.1.output.dense": SVD()})
    for name in ("factors", "merged"):
        adopt(model).save_pretrained(tmp_path / name)
        words = ["merge", str(tmp_path / name), "--out", str(tmp_path / "merged"), "-q"]
        assert run([*words, "--overwrite"]) == (0 if name == "factors" else 2)
        model = load(tmp_path / "merged")
        assert len(plan_of(model)) == 1
        assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(("family", "kernel"), DECODERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_nothing_before_a_changed_token_moves_and_padding_changes_nothing(family, kernel, side):
    model = made(family, kernel)
    ids = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 90 + 3
    pad = torch.ones(2, 3, dtype=ids.dtype)
    parts = (lambda x: (pad, x)) if side == "left" else (lambda x: (x, pad))
    mask = torch.cat([(part is ids).__int__() * torch.ones_like(part) for part in parts(ids)], 1)
    real = mask[0].bool()
    more = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
    if family == "opt":
        more.pop("position_ids")  # its own are read off the mask
    before = model(input_ids=torch.cat(parts(ids), 1), **more).logits[:, real]
    after = model(input_ids=torch.cat(parts(changed), 1), **more).logits[:, real]
    scale = before.abs().max()
    assert (after[:, :5] - before[:, :5]).abs().max() <= 1e-6 * scale
    assert (after[:, 5:] - before[:, 5:]).abs().max() > 1e-4 * scale
    plain = model(input_ids=ids).logits
    assert (plain - before).abs().max() <= 1e-5 * scale


@torch.no_grad()
@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_changes_nothing_in_an_encoder(kernel):
    model = made("bert", kernel)
    ids = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    padded = torch.cat((ids, torch.ones(2, 4, dtype=ids.dtype)), 1)
    mask = (torch.arange(13) < 9).long().expand(2, -1)
    plain, found = model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits
    assert (found[:, :9] - plain).abs().max() <= 1e-5 * plain.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(("family", "kernel"), DECODERS)
def test_a_cache_gives_what_the_whole_text_gives(family, kernel):
    model = made(family, kernel, layers=slice(0, 1))  # and a layer of softmax attention
    ids = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = model(input_ids=ids).logits
    cache, parts = None, []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        out = model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    assert (torch.cat(parts, 1) - whole).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("kernel", ["dimensionwise", "decay"])
def test_generate_with_a_cache_says_the_same(family, kernel):
    model, more = made(family, kernel), {"max_new_tokens": 6, "pad_token_id": 1, "do_sample": False}
    ids = torch.tensor([[1, 1, 5, 7, 9], [4, 8, 15, 16, 23]])
    more |= {"input_ids": ids, "attention_mask": (ids != 1).long()}
    for beams in (1, 3):
        found = [model.generate(**more, num_beams=beams, use_cache=c) for c in (True, False)]
        assert torch.equal(*found)


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_an_encoder_decoder_keeps_softmax_between_its_sides(family):
    model = made(family, "dimensionwise")
    names = [path for path, _ in converted(model.base_model)]
    assert len(names) == 4 and not any("encoder_attn" in name for name in names)
    ids = inputs(model)["input_ids"]
    more = {"input_ids": ids, "max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    assert torch.equal(*(model.generate(**more, use_cache=c) for c in (True, False)))


def test_no_causal_model_learns_what_it_cannot_know():
    """Tokens drawn evenly and independently: below log V only with a look at the future."""
    torch.manual_seed(0)
    v, steps = 16, 60
    for kernel in ("dimensionwise", "decay", "conv"):
        model = made("gpt2", kernel, vocab_size=v, bos_token_id=0, eos_token_id=2, pad_token_id=1)
        adam = torch.optim.Adam(model.train().parameters(), 3e-3)
        for _ in range(steps):
            ids = torch.randint(v, (32, 24))
            adam.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            adam.step()
        ids = torch.randint(v, (256, 24))
        with torch.no_grad():
            held = float(model.eval()(input_ids=ids, labels=ids).loss)
        assert held > torch.tensor(float(v)).log() - 0.01


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="position bias"):
        attention_sites(pico("t5"))
    model = pico("gpt2")
    with pytest.raises(ValueError, match="must not see later tokens"):
        attend(model, dict.fromkeys(attention_sites(model), DimensionWise(f="softmax")))
    model = pico("llama")
    with pytest.raises(ValueError, match="by position"):
        attend(model, dict.fromkeys(attention_sites(model), KERNELS["own blocks"]))
    model = pico("bert")
    with pytest.raises(ValueError, match="above 32"):
        wide = MultiLinear(w_o="decay", blocks=1, rank=40)
        attend(model, dict.fromkeys(attention_sites(model), wide))
    model = made("bert", "full")
    with pytest.raises(ValueError, match=r"16.*decay.*conv"):
        model(input_ids=torch.full((1, 17), 5))


# ---- through the front door
