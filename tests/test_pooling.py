"""Similarity pools as a sentence-transformers folder says, held to that package, or by the mean."""

import json
import random
import shutil

import pytest
import torch
from conftest import WORDS, pico, word_tokenizer
from scipy.stats import spearmanr
from transformers import AutoTokenizer, T5EncoderModel

from tlmtool.cli import run
from tlmtool.commands.run import Run
from tlmtool.failure import NotLoadable
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.pooling import MODES, pooling_of
from tlmtool.models import checkpoint

DRAW = random.Random(0)
PAIRS = [
    (" ".join(DRAW.choices(WORDS, k=n)), " ".join(DRAW.choices(WORDS, k=1 + n // 2)), DRAW.random())
    for n in [*range(1, 12), 30] * 3
]


def plain(folder, model):
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def parts_of(name, width):
    """What follows the transformer, by a name of CASES."""
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(1)
    pool = modules.Pooling
    if name in MODES.values():
        return [pool(width, name)]
    dense = modules.Dense
    return {
        "several": lambda: [pool(width, ("cls", "mean", "max")), modules.Normalize()],
        "dense": lambda: [pool(width, "cls"), dense(width, 12), modules.Normalize()],
        "two layers": lambda: [
            pool(width, "max"),
            dense(width, 40, bias=False, activation_function=torch.nn.Identity()),
            modules.Normalize(),
            dense(40, 9, activation_function=torch.nn.GELU()),
        ],
        "residual": lambda: [
            pool(width, "mean"),
            dense(width, width, use_residual=True),
            dense(width, 7, use_residual=True),
        ],
        "norm": lambda: [pool(width, "lasttoken"), modules.LayerNorm(width), modules.Dropout(0.5)],
    }[name]()


CASES = (*MODES.values(), "several", "dense", "two layers", "residual", "norm")


def built(folder, model, parts, **more):
    """A sentence-transformers folder of a model and what follows it."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Transformer

    raw = plain(folder.with_name(f"{folder.name}-raw"), model)
    made = library.SentenceTransformer(
        modules=[Transformer(str(raw)), *parts], device="cpu", **more
    )
    made.save_pretrained(str(folder), create_model_card=False)
    return folder


def theirs(folder):
    """Spearman of the package's own cosines."""
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(folder), device="cpu")
    found = [model.encode([a, b], convert_to_tensor=True).double() for a, b, _ in PAIRS]
    cosines = [float(torch.cosine_similarity(*each, dim=0)) for each in found]
    return spearmanr(cosines, [score for *_, score in PAIRS]).statistic


def ours(folder, **more):
    model, tokenizer = checkpoint.load(folder), AutoTokenizer.from_pretrained(folder)
    return evaluate("similarity", model, tokenizer, PAIRS, **more)


@pytest.mark.parametrize("name", CASES)
def test_similarity_is_that_of_the_package(name, tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = built(tmp_path / "m", pico("bert"), parts_of(name, 32))
    found = ours(folder)
    assert found["models"][0]["score"] == pytest.approx(theirs(folder), abs=1e-9)
    assert "as modules.json says" in found["what"]


def test_older_folders_an_encoder_of_two_sides_lengths_case_and_prompts(tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = built(tmp_path / "m", pico("bert"), parts_of("dense", 32))
    config = folder / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode_max_tokens": True}))
    listed = (
        (folder / "modules.json").read_text().replace(".sentence_transformer.modules", ".models")
    )
    (folder / "modules.json").write_text(listed)  # as of version 2
    assert ours(folder)["models"][0]["score"] == pytest.approx(theirs(folder), abs=1e-9)
    file = folder / "sentence_bert_config.json"
    for more in ({"max_seq_length": 7}, {"max_seq_length": 9, "do_lower_case": True}):
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
        found = ours(folder)
        assert found["models"][0]["score"] == pytest.approx(theirs(folder), abs=1e-9)
        assert f"of at most {more['max_seq_length']} tokens" in found["what"]
    torch.manual_seed(0)
    encoder = T5EncoderModel(pico("t5").config).eval()
    other = built(tmp_path / "t5", encoder, parts_of("two layers", 32))
    assert ours(other)["models"][0]["score"] == pytest.approx(theirs(other), abs=1e-9)


@pytest.mark.parametrize("mode", ["mean", "cls", "weightedmean"])
@pytest.mark.parametrize("include", [True, False])
def test_the_default_prompt_is_read_and_pooled_as_the_folder_says(mode, include, tmp_path):
    pytest.importorskip("sentence_transformers")
    pool = parts_of(mode, 32)
    pool[0].include_prompt = include
    named = {"prompts": {"near": "dogs ran far "}, "default_prompt_name": "near"}
    folder = built(tmp_path / "m", pico("bert"), pool, **named)
    assert ours(folder)["models"][0]["score"] == pytest.approx(theirs(folder), abs=1e-9)


def test_a_folder_without_parts_is_pooled_by_the_mean_and_says_so(tmp_path):
    found = ours(plain(tmp_path / "m", pico("bert")))
    assert found["models"][0]["pooled"] == "by the mean" and "pooled by the mean" in found["what"]
    loaded = checkpoint.load("minilm")
    loaded.name_or_path = "minilm"  # as a command calls it
    assert pooling_of(loaded).words.startswith("by mean, normalized, of at most 256 tokens")
    assert pooling_of(pico("bert")).modes == ("mean",)  # of no folder


def test_compressed_it_pools_as_before_and_a_baseline_by_its_own_folder(tmp_path, capsys):
    pytest.importorskip("sentence_transformers")
    folder = built(tmp_path / "m", pico("bert"), parts_of("dense", 32))
    data, out = tmp_path / "p.csv", tmp_path / "o"
    data.write_text("".join(f"{a},{b},{score}\n" for a, b, score in PAIRS))
    line = ["compress", str(folder), "--rank", "8", "--method", "svd", "--calibration", "none"]
    assert run([*line, "--out", str(out), "-q"]) == 0, capsys.readouterr().err
    bare = plain(tmp_path / "bare", pico("bert"))
    line = ["evaluate", str(out), "--task", "similarity", "--data", str(data), "--json", "-q"]
    capsys.readouterr()
    assert run([*line, "--baseline", str(bare)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"][0]["score"] == pytest.approx(theirs(out), abs=1e-9)
    assert found["models"][0]["pooled"] == ours(folder)["models"][0]["pooled"]
    assert "the baseline's by the mean" in found["what"]
    assert found["baseline"]["score"] == pytest.approx(ours(bare)["models"][0]["score"], abs=1e-9)


WRONG = {
    "part": ("modules.json", [{"type": "sentence_transformers.models.WordWeights", "path": "1"}]),
    "foreign": ("modules.json", [{"type": "their.own.Pooling", "path": "1_Pooling"}]),
    "no list": ("modules.json", {"type": "x"}),
    "outside": ("modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "../x"}]),
    "mode": ("1_Pooling/config.json", {"pooling_mode": "median"}),
    "activation": ("2_Dense/config.json", {"activation_function": "os.system"}),
    "not a layer": ("2_Dense/config.json", {"activation_function": "torch.nn.functional"}),
    "size": ("2_Dense/config.json", {"in_features": 31}),
    "huge": ("2_Dense/config.json", {"out_features": 10**9}),
    "other size": ("2_Dense/config.json", {"out_features": 5}),
    "tokens": ("2_Dense/config.json", {"module_input_name": "token_embeddings"}),
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    pytest.importorskip("sentence_transformers")
    return built(tmp_path_factory.mktemp("st") / "m", pico("bert"), parts_of("dense", 32))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_followed_is_one_sentence(wrong, dense, tmp_path):
    folder, (name, change) = tmp_path / "m", WRONG[wrong]
    shutil.copytree(dense, folder)
    model = checkpoint.load(folder)
    file = folder / name
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | change if name != "modules.json" else change))
    with pytest.raises(NotLoadable) as caught:
        pooling_of(model)
    assert "\n" not in str(caught.value) and name.partition("/")[0] in str(caught.value)


def test_missing_weights_of_a_part_are_one_sentence(dense, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(dense, folder)
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(NotLoadable, match=r"2_Dense has no model\.safetensors"):
        pooling_of(checkpoint.load(folder))


def test_what_cannot_be_followed_is_refused_before_weights_are_loaded(
    tmp_path, capsys, monkeypatch
):
    folder = plain(tmp_path / "m", pico("bert"))
    (folder / "modules.json").write_text(json.dumps(WRONG["foreign"][1]))
    (tmp_path / "p.csv").write_text("".join(f"{a},{b},{score}\n" for a, b, score in PAIRS))
    monkeypatch.setattr(Run, "load", lambda *_, **__: pytest.fail("weights are loaded"))
    line = ["evaluate", str(folder), "--task", "similarity", "--data", str(tmp_path / "p.csv")]
    assert run([*line, "-q"]) == 4
    assert "their.own.Pooling" in capsys.readouterr().err


def test_the_parts_of_a_model_are_read_once(monkeypatch):
    read = []
    monkeypatch.setattr("tlmtool.measuring.pooling.folder_of", read.append)  # gives none
    models = [pico("bert", seed=seed) for seed in (0, 1)]
    evaluate("similarity", models[0], word_tokenizer(), PAIRS, baseline=models[1])
    assert len(read) == 2
