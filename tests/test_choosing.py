"""Guards which layers a budget of loss converts, and how choices that cannot be are refused."""

import json

import pytest
from conftest import word_tokenizer
from test_converting import DIMENSIONWISE, compress, folder, report

from tlmtool.cli import run
from tlmtool.data.language import held_out
from tlmtool.data.reading import texts
from tlmtool.measuring.comparison import Quality
from tlmtool.models.checkpoint import load
from tlmtool.recipe.attention import flag


def test_what_stayed_within_the_budget_is_what_is_written(tmp_path):
    """Also of kernels that are random throughout, as nothing is fitted."""
    source, out = folder(tmp_path), tmp_path / "out"
    held = held_out(texts(None, None, 0))[1]
    kernel = ["--attention", "multilinear", "--core", "full"]
    budget = 100.0
    for layers in (2, 1):  # all, and all but the last that was tried
        more = ["--max-loss-increase", str(budget), "--overwrite"]
        assert compress(source, "none", out, *kernel, *more) == 0
        found = report(out)
        tried = [each["together"] for each in found["attention"]["alone"]]
        assert len(found["attention"]["layers"]) == layers and tried[0] < tried[1]
        measured = tried[layers - 1]
        assert found["attention"]["quality"] == found["quality"]["after"] == measured
        again = Quality(load(source), word_tokenizer(), held, 128, 0).compared(load(out))
        assert again.after == pytest.approx(measured)
        budget = sum(tried) / 2


def test_a_dry_run_with_a_budget_of_loss_says_if_all(tmp_path, capsys):
    source = folder(tmp_path)
    words = ["compress", str(source), *DIMENSIONWISE, "--dry-run", "-q"]
    assert run([*words, "--max-loss-increase", "0.1"]) == 0
    said = capsys.readouterr().out
    assert said.count("predicted, if all 2 layers take it") == 2
    assert "--max-loss-increase 0.1 may convert fewer" in " ".join(said.split())
    assert run([*words, "--max-loss-increase", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted_if"] == "if all 2 layers take it"
    assert run([*words, "--json"]) == 0
    assert "predicted_if" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("family", "more", "says"),
    [
        ("bert", {"kind": "multilinear", "rank": 40}, "--attention-rank 40 is above 32"),
        ("bert", {"kind": "dimensionwise", "rank": 40}, "--attention-rank 40 is above 8"),
        ("bert", {"kind": "multilinear", "w_o": "full"}, "give --attention-length N"),
        ("bert", {"kind": "multilinear", "length": 9}, "--attention-length 9 with w_o decay"),
        ("bert", {"kind": "dimensionwise", "w_o": "conv"}, "has no --w-o: it has --f"),
        ("bert", {"kind": "dimensionwise", "blocks": 2}, "has no --attention-blocks"),
        ("bert", {"kind": "multilinear", "kernels": 2}, "has no --kernels"),
        ("gpt2", {"kind": "dimensionwise", "f": "softmax"}, "--f softmax"),
        ("llama", {"kind": "multilinear", "rank": 4}, "--attention-rank 4"),
        ("llama", {"kind": "multilinear", "blocks": 2}, "--attention-blocks 2"),
        ("bert", {"w_o": "conv"}, "--w-o goes with --attention NAME"),
        ("bert", {"rank": 4}, "--attention-rank goes with --attention NAME"),
    ],
)
def test_a_refusal_names_the_flag_wherever_it_was_given(family, more, says, tmp_path, capsys):
    source, file = folder(tmp_path, family, "lm"), tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"verb": "compress", "attention": more}))
    flags = [word for key, value in more.items() for word in (flag(key), str(value))]
    sets = [word for key, value in more.items() for word in ("--set", f"attention.{key}={value}")]
    budget = [] if "kind" in more else ["--rank", "2"]
    for words in (flags, sets, ["--recipe", str(file)]):
        assert run(["compress", str(source), *words, *budget, "--dry-run", "-q"]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
