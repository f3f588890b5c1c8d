"""Kernels inside models: exact re-load, no leak through the whole model, cached decoding, and
`compress --attention` through the front door."""

import json
from pathlib import Path

import pytest
import torch
from conftest import CAUSAL, CONFIGS, WORDS, auto, inputs, output, pico, type_of, word_tokenizer

from tlmtool.attention.dimensionwise import START, DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.cli import run
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import Usage
from tlmtool.models.architectures import ARCHITECTURES
from tlmtool.models.attending import ROTARY, attend, attention_sites
from tlmtool.models.checkpoint import load
from tlmtool.models.kernels import converted
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, plan_of, sites

KERNELS = {
    "dimensionwise": DimensionWise(mixer=3),
    "two kernels": DimensionWise(kernels=2, f="scale", rank=3),
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
CASES = [(f, k) for f in TAKING for k in KERNELS if not (f in TURNING and k == "own blocks")]
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pico") / "model"
    pico("bert").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(120)]
    file.write_text("\n".join(" ".join(WORDS[i] for i in order) for order in orders) + "\n")
    return file


@pytest.mark.parametrize(
    "more",
    [
        ["--attention", "dimensionwise", "--mixer", "3"],
        ["--attention", "multilinear", "--w-o", "conv", "--attention-rank", "6"],
        ["--attention", "multilinear", "--w-o", "decay", "--attention-blocks", "2"],
    ],
)
def test_a_converted_checkpoint_is_fitted_and_recovers(checkpoint, texts, more, tmp_path):
    out = tmp_path / "out"
    words = ["compress", str(checkpoint), *more, "--layers", "1", "--data", str(texts)]
    words += ["--recover", "40", "--recover-batch", "8", "--recover-lr", "3e-4", "-q"]
    assert run([*words, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    (layer,) = report["attention"]["layers"]
    assert layer["site"] == "encoder.layer.1.attention.self" and 0 < layer["output_error"] <= 1
    found = report["recovery"]
    assert found["recovered"] < found["compressed"] and found["dense"] == 0
    model = load(out)
    assert [p for p, _ in converted(model)] == [layer["site"]]


@pytest.mark.parametrize(("calibration", "size"), [("texts", 1.0), ("none", START)])
def test_w_starts_small_only_where_no_output_map_is_fitted(
    checkpoint, texts, calibration, size, tmp_path
):
    """A fitted map takes the size of its features away."""
    words = ["compress", str(checkpoint), "--attention", "dimensionwise", "--layers", "1", "-q"]
    given = str(texts) if calibration == "texts" else "none"
    assert run([*words, "--calibration", given, "--out", str(tmp_path / "out")]) == 0
    ((_, module),) = converted(load(tmp_path / "out"))
    kernel = module.kernel["kernel"]
    assert 0.7 < kernel.std() * kernel.shape[-1] ** 0.5 / size < 1.4


def test_the_output_map_is_the_best_one(checkpoint, texts, tmp_path):
    """Least squares: no other map of the features comes nearer on the text it was given."""
    from tlmtool.compression.calibration import prepared, real
    from tlmtool.compression.conversion import convert

    dense, model = (load(checkpoint).eval() for _ in range(2))
    path = attention_sites(model)[0]
    batches = prepared(model, word_tokenizer(), texts.read_text().split("\n")[:60], 32, 512)
    (record,) = convert(model, {path: KERNELS["dimensionwise"]}, batches)
    seen = {}
    for name, each in (("dense", dense), ("kernel", model)):
        output = each.encoder.layer[0].attention.output.dense
        handle = output.register_forward_hook(
            lambda m, args, out, name=name: seen.setdefault(name, []).append((args[0], out))
        )
        with torch.no_grad():
            for batch in batches:
                each(**batch.inputs)
        handle.remove()
    rows = {
        name: [
            torch.cat([real(x[k], b) for x, b in zip(held, batches, strict=True)]) for k in (0, 1)
        ]
        for name, held in seen.items()
    }
    wrong = rows["kernel"][1] - rows["dense"][1]
    centred = rows["dense"][1] - rows["dense"][1].mean(0)
    assert float(wrong.norm() / centred.norm()) == pytest.approx(record["output_error"], rel=1e-2)
    x = torch.cat((rows["kernel"][0], torch.ones(len(wrong), 1)), 1)
    best = torch.linalg.lstsq(x, rows["dense"][1]).solution
    assert wrong.norm() <= 1.2 * (x @ best - rows["dense"][1]).norm() + 0.1 * centred.norm()


def test_layers_are_chosen_by_what_they_cost(checkpoint, texts, tmp_path, capsys):
    words = ["compress", str(checkpoint), "--attention", "dimensionwise", "-q"]
    words += ["--calibration", str(texts), "--max-loss-increase"]
    assert run([*words, "100", "--out", str(tmp_path / "all")]) == 0
    report = json.loads((tmp_path / "all" / "report.json").read_text())["attention"]
    costs = [each["increase"] for each in report["alone"]]
    assert len(report["layers"]) == 2 and costs == sorted(costs)
    between = (costs[0] + report["alone"][1]["together"]) / 2
    assert run([*words, str(between), "--out", str(tmp_path / "one")]) == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())["attention"]
    assert [each["site"] for each in report["layers"]] == [report["alone"][0]["site"]]
    capsys.readouterr()
    assert run([*words, "1e-9", "--out", str(tmp_path / "none")]) == 2
    assert "no layer stays within" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--attention", "dimensionwise", "--layers", "2"], "out of range: the layers of this"),
        (["--attention", "dimensionwise", "--layers", "x"], "layers such as 3-5"),
        (["--attention", "dimension"], "did you mean dimensionwise"),
        (["--attention", "dimensionwise", "--f", "sofmax"], "did you mean softmax"),
        (["--attention", "dimensionwise", "--w-o", "conv"], "has no --w-o"),
        (["--attention", "multilinear", "--attention-rank", "40"], "above 32"),
        (["--layers", "1", "--rank", "2"], "give that too"),
        (["--attention", "multilinear", "--w-o", "full"], "one length"),
    ],
)
def test_bad_input_is_one_sentence(checkpoint, tmp_path, capsys, more, says):
    assert run(["compress", str(checkpoint), *more, "--out", str(tmp_path / "out"), "-q"]) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and not (tmp_path / "out").exists()


def test_a_dry_run_counts_the_kernels(checkpoint, capsys):
    words = ["compress", str(checkpoint), "--attention", "dimensionwise", "--dry-run", "--json"]
    assert run([*words, "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] and len(found["attention"]["layers"]) == 2
    model = load(checkpoint)
    attend(model, dict.fromkeys(attention_sites(model), DimensionWise()))
    assert found["parameters"]["after"] == sum(p.numel() for p in model.parameters())


def test_a_kernel_that_is_not_there_is_refused():
    from tlmtool.compression.choosing import kernel_of
    from tlmtool.recipe.attention import Attending

    with pytest.raises(Usage, match="has no --kernels"):
        kernel_of(Attending(kind="multilinear", kernels=2))
