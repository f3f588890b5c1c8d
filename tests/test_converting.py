"""Guards `compress --attention` on checkpoints that are factorized or converted already, on models
without a bias, and on texts of other lengths than a kernel's; and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from conftest import output, pico, sentences, word_tokenizer

from tlmtool.cli import run
from tlmtool.data.language import held_out
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.mpo import MPO
from tlmtool.decompositions.svd import SVD
from tlmtool.measuring.counting import forward_flops
from tlmtool.models.checkpoint import load
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, plan_of, sites

DIMENSIONWISE = ["--attention", "dimensionwise"]
OWN = ["--attention", "multilinear", "--attention-rank", "4"]  # projections and a map of its own
TWO = [*DIMENSIONWISE, "--kernels", "2"]  # an output projection of another size
FULL = ["--attention", "multilinear", "--w-o", "full", "--attention-length", "16"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Texts of 2 to 13 tokens."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(sentences(120)) + "\n")
    return file


def folder(tmp_path: Path, family: str = "bert", head: str = "base", held=None, **more) -> Path:
    """A checkpoint, with the attention's linears held by a decomposition."""
    model, out = pico(family, head, **more), tmp_path / "model"
    if held:
        roles = ("query", "key", "value", "qkv", "output")
        factorize(model, {s: held for s, role in sites(model).items() if role in roles})
        adopt(model)
    model.save_pretrained(out)
    word_tokenizer().save_pretrained(out)
    return out


def compress(source: Path, texts: Path | str, out: Path, *more: str) -> int:
    words = ["compress", str(source), "--out", str(out), "--calibration", str(texts), "-q", *more]
    return run(words)


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


# ---- factors and kernels in either order


@pytest.mark.parametrize(
    ("held", "kernel"),
    [
        (SVD(rank=4), DIMENSIONWISE),
        (SVD(rank=4), TWO),
        (BTD(rank=3, blocks=4, modes=(4, 8)), DIMENSIONWISE),
        (BTD(rank=3, blocks=4, modes=(4, 8)), OWN),
        (MPO(), DIMENSIONWISE),
        (MPO(), OWN),
    ],
)
def test_a_factorized_checkpoint_takes_kernels(held, kernel, texts, tmp_path):
    source, out = folder(tmp_path, held=held), tmp_path / "out"
    assert compress(source, texts, out, *kernel, "--layers", "1") == 0
    (layer,) = report(out)["attention"]["layers"]
    assert 0 < layer["output_error"] < 1
    plan, before = plan_of(load(out)), plan_of(load(source))
    same = {site for site, each in plan.items() if each == before.get(site)}
    changed = {"query", "key", "value", "output"}  # of another size, so dense again
    if kernel != OWN:
        changed = {"output"} if "--kernels" in kernel else set()
    roles = sites(load(source))
    kept = {s for s in before if "layer.0" in s or roles[s] not in changed}
    assert same == kept and set(plan) == kept | {layer["site"]}


@pytest.mark.parametrize("kernel", [TWO, OWN])
def test_a_converted_checkpoint_is_factorized(kernel, texts, tmp_path):
    source, first, out = folder(tmp_path), tmp_path / "first", tmp_path / "out"
    assert compress(source, texts, first, *kernel, "--layers", "1") == 0
    assert compress(first, "none", out, "--rank", "3", "--method", "svd") == 0
    plan = plan_of(load(out))
    assert len(plan) == (8 if kernel == OWN else 9)
    model = load(first)  # the same by hand
    factorize(model, {s: f for s, f in plan.items() if s not in plan_of(model)})
    by_hand, found = output(model), output(load(out))
    assert (found - by_hand).abs().max() <= 1e-5 * by_hand.abs().max()
    assert run(["merge", str(out), "--out", str(tmp_path / "merged"), "-q"]) == 0
    assert [type(f) for f in plan_of(load(tmp_path / "merged")).values()] == [
        type(f) for f in plan_of(load(first)).values()
    ]


# ---- a kernel made for one length


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_full_is_fitted_too(family, texts, tmp_path):
    out = tmp_path / "out"
    more = ["--max-length", "16"]
    assert compress(folder(tmp_path, family, "lm"), texts, out, *FULL, *more) == 0
    found = report(out)
    assert all(0 < each["output_error"] < 1 for each in found["attention"]["layers"])


def test_texts_longer_than_the_length_are_refused(texts, tmp_path, capsys):
    source, out = folder(tmp_path), tmp_path / "out"
    more = ["--recover", "2", "--data", str(texts)]
    for asked in ([], more, ["--dry-run"], ["--max-length", "17"]):
        assert compress(source, texts, out, *FULL, *asked) == 2
        said = capsys.readouterr().err
        assert "--attention-length 16" in said and "decay or conv" in said and not out.exists()


def test_shorter_texts_are_right_with_padding(texts, tmp_path):
    source, out = folder(tmp_path, "bert", "lm"), tmp_path / "out"
    more = ["--max-length", "16", "--recover", "2", "--data", str(texts)]
    assert compress(source, texts, out, *FULL, *more) == 0
    found = report(out)
    for when, at in (("before", source), ("after", out)):  # both at its length
        model = load(at).eval()
        assert found["flops"][when] == forward_flops(model, 16, 1, sites(model))["total"]
    ids = torch.randint(5, 16, (1, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        mask = (torch.arange(16) < 6).long()[None]
        padded = model(
            input_ids=torch.nn.functional.pad(ids, (0, 10), value=1), attention_mask=mask
        )
    assert (padded.logits[:, :6] - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_what_reads_such_a_checkpoint_says_its_length(texts, tmp_path, capsys):
    source, out = folder(tmp_path, "bert", "lm"), tmp_path / "out"
    more = ["--attention", "multilinear", "--w-o", "full", "--attention-length", "8"]
    assert compress(source, texts, out, *more, "--max-length", "8") == 0
    assert run(["profile", str(out), "--seq-len", "32", "-q"]) == 2
    said = capsys.readouterr().err
    assert "built for 8 tokens" in said
    asked, teach = ["--data", str(texts), "-q", "--json"], ["--train", "all", "--teacher", str(out)]
    evaluate = [["evaluate", str(out)], ["evaluate", str(source), "--baseline", str(out)]]
    tuned = ["--steps", "2", "--out", str(tmp_path / "tuned"), "--overwrite"]
    tune = [["finetune", str(out), *tuned], ["finetune", str(source), *tuned, *teach]]
    for words in (*evaluate, *tune):
        task = [] if "--teacher" in words else ["--task", "mlm"]
        for length, warnings in (("128", 1), ("8", 0))[: 1 if words in evaluate else 2]:
            assert run([*words, *task, *asked, "--max-length", length]) == 0
            said = json.loads(capsys.readouterr().out)["warnings"]
            cut = "of the 120 texts" if words in evaluate else "of the 105 training texts"
            counted = [each for each in said if f"{cut} are cut at 8 tokens" in each]
            assert len(counted) == 1
            said = [each for each in said if each not in counted]
            assert len(said) == warnings
            assert all("longer than 8 tokens are cut" in each for each in said)
            assert all(str(out) in each for each in said)


# ---- no text, too long texts, layers that take no kernel


def test_without_text_nothing_is_fitted_and_that_is_said(tmp_path):
    source, out = folder(tmp_path), tmp_path / "out"
    assert compress(source, "none", out, *DIMENSIONWISE) == 0
    found = report(out)
    assert [each["output_error"] for each in found["attention"]["layers"]] == [None, None]
    assert "nothing is fitted" in found["warnings"][0]
    assert "nothing is fitted" in (out / "README.md").read_text()
    before, after = load(source), load(out)
    path = "encoder.layer.0.attention.output.dense.weight"
    assert torch.equal(before.get_parameter(path), after.get_parameter(path))


def test_texts_that_are_cut_are_counted(texts, tmp_path):
    source, out = folder(tmp_path), tmp_path / "out"
    more = ["--max-length", "8", "--recover", "2", "--data", str(texts)]
    assert compress(source, texts, out, *DIMENSIONWISE, *more) == 0
    found = report(out)
    read, _ = held_out(texts.read_text().splitlines())
    lengths = [len(text.split()) + 2 for text in read]
    long, left_out = sum(n > 8 for n in lengths), sum(max(0, n - 8) for n in lengths)
    assert len(read) == found["calibration"]["texts"] == found["recovery"]["sentences"] > long > 0
    assert found["warnings"] == [
        f"{long} of the {len(read)} {what} are cut at 8 tokens, which leaves out {left_out} of "
        f"{sum(lengths)} tokens"
        for what in ("calibration texts", "texts of --recover")
    ]
    assert compress(source, texts, out, "--rank", "3", "--max-length", "20", "--overwrite") == 0
    assert not report(out)["warnings"]


def test_a_layer_has_one_kernel(texts, tmp_path, capsys):
    source, first, out = folder(tmp_path), tmp_path / "first", tmp_path / "out"
    assert compress(source, texts, first, *OWN, "--layers", "1") == 0
    for more in ([*OWN, "--layers", "1"], [*DIMENSIONWISE, "--layers", "0-1", "--dry-run"]):
        assert compress(first, texts, out, *more) == 2
        said = capsys.readouterr().err
        assert "layer.1.attention.self has multilinear attention already" in said
        assert "take a kernel: encoder.layer.0.attention.self" in said and not out.exists()
    more = ["--max-loss-increase", "100"]
    assert compress(first, texts, out, *DIMENSIONWISE, *more) == 0  # of those that are left
    found = report(out)
    assert [each["site"] for each in found["attention"]["layers"]] == [
        "encoder.layer.0.attention.self"
    ]
    assert "left as it is: encoder.layer.1.attention.self" in found["warnings"][0]
    kernels = {path: kernel.name for path, kernel in plan_of(load(out)).items()}
    assert list(kernels.values()) == ["dimensionwise", "multilinear"]
    assert compress(out, texts, tmp_path / "none", *DIMENSIONWISE) == 2
    assert "no other takes a kernel" in capsys.readouterr().err


WINDOWS = {
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}


@pytest.mark.parametrize("family", WINDOWS)
def test_layers_that_see_a_window_keep_it(family, texts, tmp_path, capsys):
    source, out = folder(tmp_path, family, "lm", **WINDOWS[family]), tmp_path / "out"
    assert compress(source, texts, out, *DIMENSIONWISE, "--layers", "1") == 2
    said = capsys.readouterr().err
    assert "layers.1.self_attn sees the last 4 tokens alone" in said and not out.exists()
    all_windows = family == "mistral"
    assert compress(source, texts, out, *DIMENSIONWISE) == (2 if all_windows else 0)
    if not all_windows:
        found = report(out)
        assert [each["site"] for each in found["attention"]["layers"]] == ["layers.0.self_attn"]
        assert "layers.1.self_attn sees the last 4 tokens" in found["warnings"][0]


def test_a_window_as_wide_as_all_positions_is_none(texts, tmp_path):
    source, out = folder(tmp_path, "mistral", "lm", sliding_window=64), tmp_path / "out"
    assert compress(source, texts, out, *DIMENSIONWISE) == 0
