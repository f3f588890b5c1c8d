"""Bad input: one sentence on stderr, the right exit code, nothing written, never a traceback."""

import contextlib
import errno
import io
import json
import random
import shutil

import pytest
import torch
import yaml
from conftest import WORDS, pico, word_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tlmtool.cli import run
from tlmtool.recipe.schema import settings as schema

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense bert with its tokenizer, and beside it a text."""
    folder = tmp_path_factory.mktemp("room") / "dense"
    pico("bert", "lm").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=8)) for _ in range(16)]
    (folder.parent / "text.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def broken(dense, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(dense, tmp_path / "broken")


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a quiet command that must end with a code: its sentence, after a look for leftovers."""

    def go(code, *args, verb="compress"):
        before = sorted(tmp_path.rglob("*"))
        out = (
            () if verb in ("profile", "evaluate") or "--out" in args else ("--out", tmp_path / "o")
        )
        assert run([*map(str, (verb, *args, *out, "-q"))]) == code
        told, sentence = capsys.readouterr()
        assert told == "" and sentence.startswith("tlm: ") and sentence.count("\n") == 1, sentence
        assert "Traceback" not in sentence and "internal error" not in sentence
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return go


RANK = ("--rank", 2, "--calibration", "none")


@pytest.mark.parametrize("verb", ["compress", "merge", "profile", "evaluate"])
def test_a_model_that_does_not_exist(refused, tmp_path, verb):
    more = {"compress": RANK, "evaluate": ("--task", "mlm")}.get(verb, ())
    assert "does not exist" in refused(4, tmp_path / "nowhere", *more, verb=verb)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(4, tmp_path / "file", *more, verb=verb)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "has no config.json"),
        ("{broken", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        ("[" * 99999, "cannot be read as JSON"),
        ("[1]", "holds list, not an object"),
        ("{}", "model type None, not supported; known: bart, bert, distilbert"),
        ({"model_type": "mamba"}, "model type 'mamba', not supported; known: bart, bert"),
        ({"model_type": ["bert"]}, "model type ['bert'], not supported"),
        ({"model_type": "tlm-bert"}, "no plan under the key tlm"),
        ({"model_type": "gpt2"}, "has type gpt2 but the class BertForMaskedLM"),
        ({"architectures": ["BertForDancing"]}, "BertForDancing, which transformers lacks"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantized already"),
        ({"num_local_experts": 8}, "is a mixture of experts"),
        ({"vocab_size": 98}, "is (99, 32) in the file but (98, 32) by config.json"),
        ({"num_hidden_layers": 3}, "lacks 16 weights, such as bert.encoder.layer.2."),
        ({"num_hidden_layers": 0}, "no module for the role"),
        ({"num_attention_heads": -1}, "cannot run with its config.json"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"hidden_act": "magic"}, "cannot be loaded"),
        ({"dtype": 3}, "cannot be loaded"),
    ],
)
def test_config(refused, broken, config, says):
    file = broken / "config.json"
    if config is None:
        file.unlink()
    elif isinstance(config, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    else:
        file.write_bytes(config if isinstance(config, bytes) else config.encode())
    assert says in refused(4, broken, *RANK)


def without(name):
    return lambda weights: {k: v for k, v in weights.items() if name not in k}


def with_one(name, number):
    def change(weights):
        (key,) = [k for k in weights if name in k]
        weights[key].flatten()[0] = number
        return weights

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[: len(raw) // 2], "is damaged or no safetensors file"),
        (lambda raw: b"", "is damaged or no safetensors file"),
        (lambda raw: b"garbage" * 99, "is damaged or no safetensors file"),
        (with_one("layer.1.output.dense.weight", float("nan")), "holds NaN or infinity"),
        (with_one("word_embeddings.weight", float("inf")), "word_embeddings.weight holds NaN"),
        (without("layer.0.attention.self.key.weight"), "lacks 1 weights, such as bert.encoder"),
    ],
)
def test_weights(refused, broken, damage, says):
    file = broken / "model.safetensors"
    try:
        file.write_bytes(damage(file.read_bytes()))
    except (AttributeError, TypeError):
        save_file(damage(load_file(file)), file, {"format": "pt"})
    assert says in refused(4, broken, *RANK)


def test_a_pickle_is_not_opened(refused, broken):
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    assert "as a pickle (pytorch_model.bin), which can run code" in refused(4, broken, *RANK)
    (broken / "pytorch_model.bin").unlink()
    assert "has no model.safetensors" in refused(4, broken, *RANK)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {"a": "gone.safetensors"}}'])
def test_an_index_of_shards(refused, broken, index):
    (broken / "model.safetensors.index.json").write_text(index)
    (broken / "model.safetensors").rename(broken / "a.safetensors")
    sentence = refused(4, broken, *RANK)
    assert "has no gone" in sentence if "gone" in index else "is not an index" in sentence


def test_a_tokenizer_that_is_broken_or_of_another_model(refused, broken):
    (broken / "tokenizer.json").write_text("{}")
    assert "the tokenizer in" in refused(4, broken, "--rank", 2)
    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer_config.json").unlink()
    text = ("--calibration", broken.parent / "t.txt")
    (broken.parent / "t.txt").write_text("the cat sat")
    assert "no tokenizer, so --calibration" in refused(4, broken, "--rank", 2, *text)
    assert "no tokenizer" in refused(4, broken, "--task", "mlm", verb="evaluate")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--rank 0", "--rank must be an integer of at least 1, got 0"),
        ("--rank -1", "--rank must be an integer of at least 1, got -1"),
        ("--rank eight", "--rank must be an integer of at least 1, got 'eight'"),
        ("--rank 1000000000", "rank 1000000000 is above 32, the full rank of a weight (4, 8, 32)"),
        ("--rank 32", "no site would get smaller at this budget: btd at rank 32"),
        ("--keep 0", "--keep must be a number above 0 and below 1, got 0"),
        ("--keep 1.5", "--keep must be a number above 0 and below 1, got 1.5"),
        ("--keep 0.001", "keep more, or name fewer sites"),
        ("--energy 1", "no site would get smaller"),
        ("--rank 2 --keep 0.5", "--rank and --keep exclude each other"),
        ("--rank 2 --method auto", "--method auto needs a budget"),
        ("--rank 2 --sites encoder.layer.9.*", "no site matches 'encoder.layer.9.*'; name attent"),
        ("--rank 2 --ignore *", "--ignore takes all that --sites names"),
        ("--rank 2 --device tpu", "device tpu cannot be used here"),
        ("--rank 2 --device meta", "device meta"),
        ("", "compress needs one budget"),
    ],
)
def test_flags(refused, dense, flags, says):
    assert says in refused(2, dense, "--calibration", "none", *flags.split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty: it should hold one text a line"),
        (b" \n\n", "is empty"),
        (b"word", "holds one word ('word'): two or more are needed"),
        (b"the cat\0", "is binary"),
        (bytes(range(128, 256)), "is not UTF-8 text"),
        (None, "does not exist"),
    ],
)
def test_calibration_files(refused, dense, tmp_path, text, says):
    if text is not None:
        (tmp_path / "t.txt").write_bytes(text)
    assert says in refused(4, dense, "--rank", 2, "--calibration", tmp_path / "t.txt")
    (tmp_path / "folder").mkdir()
    text = ("--calibration", tmp_path / "folder")
    assert "is a directory" in refused(4, dense, "--rank", 2, *text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("compression: {rnk: 2}", "did you mean compression.rank?"),
        ("compresion: {rank: 2}", "did you mean compression?"),
        ("!!python/object/apply:os.system [touch tagged]", "YAML tags such as"),
        ("compression: {rank: !!int 2}", "YAML tags such as"),
        ("verb: merge", "is for the verb 'merge', not for compress"),
        ("compression: {overrides: [{sites: x*, rank: 3}]}", "'x*' matches none of the sites"),
    ],
)
def test_recipes(refused, dense, tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text)
    assert says in refused(2, dense, "--recipe", tmp_path / "r.yaml", *RANK)


def test_out(refused, dense, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    taken, full = ("--out", tmp_path / "file"), ("--out", tmp_path / "full")
    assert "is a file, not a folder" in refused(2, dense, *RANK, *taken)
    assert "is a file, not a folder" in refused(2, dense, *RANK, *taken, "--overwrite")
    assert "is not empty; give --overwrite" in refused(2, dense, *RANK, *full)
    assert "holds no checkpoint" in refused(2, dense, *RANK, *full, "--overwrite")
    below = ("--out", tmp_path / "file" / "deep" / "er")
    assert f"{tmp_path / 'file'} is no folder" in refused(2, dense, *RANK, *below)


def write_then_fail(patch, error):
    """The disk takes the weights, and no more."""
    real = PreTrainedModel.save_pretrained

    def save_pretrained(self, folder, **kwargs):
        real(self, folder, **kwargs)
        raise error

    patch.setattr(PreTrainedModel, "save_pretrained", save_pretrained)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "w.safetensors"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "w"), "w: Permission denied"),
    ],
)
def test_a_failing_write_leaves_what_was_there(refused, dense, tmp_path, monkeypatch, error, says):
    old = shutil.copytree(dense, tmp_path / "old")
    kept = {f.name: f.read_bytes() for f in old.iterdir()}
    write_then_fail(monkeypatch, error)
    assert says in refused(1, dense, *RANK, "--out", old, "--overwrite")
    assert {f.name: f.read_bytes() for f in old.iterdir()} == kept
    assert sorted(tmp_path.iterdir()) == [old]


def test_a_failing_write_leaves_no_folder_and_the_next_run_makes_it(refused, dense, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        write_then_fail(patch, OSError(errno.ENOSPC, "No space left on device"))
        refused(1, dense, *RANK)
    given = ("compress", dense, *RANK, "--out", tmp_path / "o", "-q")
    assert run([*map(str, given)]) == 0
    (tmp_path / "o" / "report.json").unlink()
    assert run([*map(str, given), "--overwrite"]) == 0
    assert (tmp_path / "o" / "report.json").exists()
    assert [*tmp_path.iterdir()] == [tmp_path / "o"]


# ---- whatever it is, it ends well


def ends_well(*args):
    """A dry run of whatever it is given ends with one of our codes, a failure in one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*map(str, ("compress", *args, "--dry-run", "-q"))])
    told = "".join(x for x in err.getvalue().splitlines(True) if not x.startswith("warning: "))
    assert code in (0, 2, 3, 4), told
    assert "Traceback" not in told and "internal error" not in told
    assert told.count("\n") == (code != 0) and (not code or told.startswith("tlm: "))


JUNK = st.recursive(
    st.one_of(
        st.sampled_from([None, True, False, 0.5, 1e308, -1.5, 2**70, "", "float32", "2", "*", "x"]),
        st.integers(-3, 9),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
APART = ("model", "calibration.text")  # a text may be the name of a data set


GOOD = {
    "compression.sites": [["ffn"], "all", ["*.query", "attention"], "embedding", "*.layer.1.*"],
    "compression.ignore": [[], "*.layer.1.*", ["*.key"], "*"],
    "compression.rank": [1, 2, 4, 40],
    "compression.blocks": [1, 3, 50],
    "compression.keep": [0.01, 0.4, 0.9],
    "compression.energy": [0.5, 0.99],
    "compression.overrides": [[], [{"sites": "*.query", "method": "svd", "rank": 4}]],
    "output.fail_if": ["keep>0.1", "parameters.after == 3", "x>1"],
    "revision": ["main"],
    "device": ["cpu", "cuda:9", "meta"],
    "output.max_shard_size": ["5GB", "1KB"],
    "output.out": ["somewhere"],
}


def values(path, setting):
    """Mostly what the setting takes."""
    choices = setting.rules.get("choices", ())
    good = GOOD.get(path) or [*(choices() if callable(choices) else choices), setting.default, 9]
    return st.integers(0, 5).flatmap(lambda dice: st.sampled_from(good) if dice else JUNK)


@st.composite
def recipes(draw):
    known = {k: s for k, s in schema("compress").items() if k not in APART}
    budgets = ["compression.rank", "compression.keep", "compression.energy"]
    others = st.sampled_from(sorted(known.keys() - set(budgets)))
    chosen = [draw(st.sampled_from(budgets)), *draw(st.lists(others, max_size=3, unique=True))]
    tree = {}
    for path in chosen:
        section, _, leaf = path.rpartition(".")
        value = draw(values(path, known[path]))
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree


@FUZZ
@given(recipe=recipes(), text=st.booleans())
def test_any_recipe(dense, recipe, text):
    file = dense.parent / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, default_flow_style=False))
    calibration = dense.parent / "text.txt" if text else "none"
    ends_well(dense, "--recipe", file, "--calibration", calibration)


@FUZZ
@given(data=st.data(), budget=st.sampled_from([("--rank", 2), ("--keep", 0.5)]))
def test_any_config(dense, data, budget):
    kept = json.loads((dense / "config.json").read_text())
    folder = shutil.copytree(dense, dense.parent / "mutant", dirs_exist_ok=True)
    for key in data.draw(st.lists(st.sampled_from([*kept]), min_size=1, max_size=2, unique=True)):
        if data.draw(st.booleans()):
            del kept[key]
        else:
            kept[key] = data.draw(JUNK)
    (folder / "config.json").write_text(json.dumps(kept))
    ends_well(folder, *budget, "--calibration", "none")
