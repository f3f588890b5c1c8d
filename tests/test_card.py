"""The model card is what the Hub reads: ids, task, library, tags, scores and code that runs."""

import re
import shutil

import pytest
from conftest import pico, word_tokenizer
from huggingface_hub import ModelCard, ModelCardData
from made_reports import compressed

from tlmtool.cli import run
from tlmtool.report.card import HEADS

RANK = ("--rank", "2", "--calibration", "none", "-q")


def read(text: str) -> ModelCardData:
    """The front matter as the Hub's client reads and writes it, with its checks."""
    card = ModelCard(text, ignore_metadata_errors=False)
    again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n{card.text}", ignore_metadata_errors=False)
    assert again.data.to_dict() == card.data.to_dict()
    return card.data


def made(**more) -> ModelCardData:
    model = {"id": "minilm", "class": "BertModel", "hub_id": "org/name", "license": "mit"}
    return read(compressed(model={**model, **more}).card("m"))


@pytest.mark.parametrize(("end", "head"), HEADS.items())
def test_every_head_has_its_task_and_its_auto_class(end, head):
    import transformers

    data = made(**{"class": f"Any{end}"})
    assert data.pipeline_tag == head[1] and hasattr(transformers, head[0])
    assert data.base_model == "org/name" and data.license == "mit"
    assert data.library_name == "transformers" and data.tags == ["tlm", "btd"]


def test_a_base_model_is_named_only_where_the_hub_has_it():
    assert made(hub_id=None).base_model is None
    assert "`minilm` with" in compressed().card("m")


def saved(folder):
    pico("bert", "lm").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def tlm(*args) -> None:
    assert run([*map(str, args)]) == 0


def test_the_id_travels_from_the_cache_of_the_hub_through_results(tmp_path):
    """A folder in the cache has an id; what is made of it names that, and so on."""
    place = saved(tmp_path / "models--org--name" / "snapshots" / "c0ffee")
    tlm("compress", place, *RANK, "--out", tmp_path / "a")
    tlm("merge", tmp_path / "a", "-q", "--out", tmp_path / "b")
    for name in ("a", "b"):
        assert read((tmp_path / name / "README.md").read_text()).base_model == "org/name"
    card = (tmp_path / "a" / "README.md").read_text()
    assert "# pip install tlmtool\nimport tlmtool" in card
    assert (
        "tlmtool"
        not in re.search(r"```python\n(.*?)```", (tmp_path / "b/README.md").read_text(), re.S)[1]
    )


def test_scores_reach_the_hub(tmp_path):
    dense, out, pairs = saved(tmp_path / "m"), tmp_path / "a", tmp_path / "pairs.csv"
    pairs.write_text("the cat,a cat,1\nthe mat,dogs ran,2\ndogs,cat sat on a mat,3\n")
    tlm("compress", dense, *RANK, "--out", out)
    tlm("evaluate", out, "--task", "similarity", "--data", pairs, "--out", out, "-q")
    (result,) = read((out / "README.md").read_text()).eval_results
    assert (result.task_type, result.metric_type) == ("sentence-similarity", "spearmanr")


def test_a_folder_of_sentence_transformers_says_how_to_encode(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    parts = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    inner = parts.Transformer(str(saved(tmp_path / "m")))
    model = library.SentenceTransformer(modules=[inner, parts.Pooling(32)])
    model.save_pretrained(str(tmp_path / "st"), create_model_card=False)
    tlm("compress", tmp_path / "st", *RANK, "--out", tmp_path / "a")
    text = (tmp_path / "a" / "README.md").read_text()
    data = read(text)
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity" and "sentence-transformers" in data.tags
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert code.startswith("# pip install sentence-transformers tlmtool\n")
    shutil.move(tmp_path / "a", tmp_path / "b")
    exec(code.replace('"a"', f'"{tmp_path / "b"}"'), space := {})
    assert space["embeddings"].shape == (2, 32)
