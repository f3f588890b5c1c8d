"""The rivals of the table of four models obey their laws, and its rows survive an interruption."""

import argparse
import copy
import json
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import V, inputs, output, pico, sentences, word_tokenizer

from tlmtool.cli import run
from tlmtool.compression.candidates import Candidates, select
from tlmtool.data.batching import Batch
from tlmtool.models import checkpoint
from tlmtool.models.factorized import Factorized, dense_weight
from tlmtool.models.surgery import factorize

FOLDER = Path(__file__).parents[1] / "benchmarks"
SITES = ["attention", "ffn"]


@pytest.fixture
def scripts(monkeypatch):
    """Imports a script of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture
def rivals(scripts):
    return scripts("four_models_rivals")


def tail(weight: torch.Tensor, rank: int) -> float:
    """The squared error of the best matrix of a rank."""
    return float(torch.linalg.svdvals(weight.double())[rank:].square().sum())


def test_plain_svd_leaves_the_tail_of_the_spectrum(rivals):
    model, keep = pico("bert"), 0.4
    roles = select(model, SITES)
    dense, plan = copy.deepcopy(model), rivals.uniform(model, roles, keep)
    factorize(model, plan)
    assert set(plan) == set(roles)
    for site, each in plan.items():
        weight = dense_weight(dense.base_model.get_submodule(site)).double()
        off = dense_weight(model.base_model.get_submodule(site)).double() - weight
        assert float(off.square().sum()) == pytest.approx(tail(weight, each.rank), rel=1e-4)
        assert each.rank * sum(weight.shape) <= keep * weight.numel()
        assert (each.rank + 1) * sum(weight.shape) > keep * weight.numel()


def moments_of(model, roles, read) -> dict[str, torch.Tensor]:
    """{site: E[x x^T] of its inputs}, by a hook on every site."""
    sums = dict.fromkeys(roles, 0.0)
    mask = read.inputs["attention_mask"].bool()

    def note(site):
        def hook(module, args):
            x = args[0].detach()[mask].double()
            sums[site] = sums[site] + x.T @ x / len(x)

        return hook

    for site in roles:
        model.base_model.get_submodule(site).register_forward_pre_hook(note(site))
    with torch.no_grad():
        model(**read.inputs)
    return sums


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_whitened_svd_is_the_least_error_on_the_inputs_of_the_dense_model(rivals, family):
    """Not on those that the factorized layers before it give."""
    model = pico(family)
    roles = select(model, SITES)
    dense, plan = copy.deepcopy(model), rivals.uniform(model, roles, 0.4)
    ids, mask = torch.randint(3, V, (16, 24)), torch.ones(16, 24).long()
    mask[0, 9:] = 0  # padding, which weighs nothing
    read = Batch(list(range(16)), {"input_ids": ids, "attention_mask": mask}, mask == 0)
    rivals.whiten(model, roles, plan, [read])
    for site, moments in moments_of(dense, roles, read).items():
        values, vectors = torch.linalg.eigh(moments)
        root = vectors * values.clamp_min(0).sqrt()
        weight = dense_weight(dense.base_model.get_submodule(site)).double()
        off = dense_weight(model.base_model.get_submodule(site)).double() - weight
        least, whole = tail(weight @ root, plan[site].rank), tail(weight @ root, 0)
        assert float((off @ root).square().sum()) == pytest.approx(
            least, rel=1e-3, abs=1e-7 * whole
        )


def test_bits_of_rounded_weights_and_two_bytes_of_others(rivals, scripts, tmp_path):
    model, rows = pico("llama", "lm", tie_word_embeddings=True), scripts("four_models_rows")
    roles = select(model, SITES)
    shapes = [Candidates(model, roles).shape(site) for site in roles]
    numbers, linears = sum(p.numel() for p in model.parameters()), sum(o * i for o, i in shapes)
    table = model.get_input_embeddings().weight
    scales = sum(o for o, _ in shapes) + len(table)  # a row of up to 64 weights has one
    before = table.detach().clone()
    found = rivals.round_all(model, roles, 4, True)
    model.save_pretrained(tmp_path)
    assert rows.sizes(tmp_path, {}) == {"parameters": numbers, "weight_bytes": 2 * numbers}
    rest = numbers - linears - table.numel()
    packed = (linears + table.numel()) // 2 + 2 * scales + 2 * rest
    assert rows.sizes(tmp_path, found) == {"parameters": numbers, "weight_bytes": packed}
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head is table and torch.equal(table, rivals.rounded(before, 4, 32))


@pytest.mark.parametrize("kind", ["svd", "whitened", "round"])
def test_a_rival_is_a_checkpoint(rivals, kind, tmp_path):
    dense, text = pico("llama", "lm"), tmp_path / "text.txt"
    text.write_text("\n".join(sentences(40)), encoding="utf-8")
    dense.save_pretrained(tmp_path / "dense")
    word_tokenizer().save_pretrained(tmp_path / "dense")
    given = {"kind": kind, "model": str(tmp_path / "dense"), "out": tmp_path / "rival"}
    given |= {"sites": "attention,ffn", "keep": 0.5, "bits": 8, "embeddings": False}
    given |= {"calibration": str(text), "calibration_tokens": None}
    found = rivals.made(argparse.Namespace(device="cpu", **given))
    model = checkpoint.load(tmp_path / "rival")
    assert output(model).shape == output(dense).shape
    assert not torch.equal(output(model), output(dense))
    factors = [m for m in model.modules() if isinstance(m, Factorized)]
    assert len(factors) == (0 if kind == "round" else len(select(dense, SITES)))
    assert kind == "round" or 0.4 < found["keep"] <= 0.5
    model(**inputs(model))


ASKED = "dense,int4-all,keep-0.6,keep-0.6-whitened,keep-0.6-svd"


@pytest.mark.parametrize(("name", "family"), [("minilm", "bert"), ("smollm2", "llama")])
def test_every_command_of_a_row_runs(scripts, rivals, name, family, tmp_path, monkeypatch, capsys):
    """In this process: what each would print in its own."""
    main = scripts("four_models")
    pico(family, "lm" if name == "smollm2" else "base").save_pretrained(tmp_path / "dense")
    word_tokenizer().save_pretrained(tmp_path / "dense")
    texts = [f"{text} cat far away mat on" for text in sentences(1200)]
    pairs = [f"{a}\t{b}\t{k % 5}" for k, (a, b) in enumerate(pairwise(texts))]
    files = {"text.txt": texts, "train.tsv": pairs, "pairs.tsv": pairs[:60]}
    for file, lines in files.items():
        (tmp_path / file).write_text("\n".join(lines), encoding="utf-8")

    def ran(command):
        verb = command[3:] if command[1] == "-m" else command[1:]
        capsys.readouterr()
        if command[1] == "-m":
            assert run(verb) == 0
        else:
            monkeypatch.setattr(sys, "argv", verb)
            rivals.main()
        return json.loads(capsys.readouterr().out), {"seconds": 1, "peak_rss_bytes": 1}

    monkeypatch.setattr(main, "ran", ran)
    more = {"--models": name, f"--{name}": tmp_path / "dense", "--rows": ASKED, "--tokens": 400}
    more |= {"--pairs": tmp_path / "pairs.tsv", "--train-pairs": tmp_path / "train.tsv"}
    more |= {"--text": tmp_path / "text.txt", "--train-text": tmp_path / "text.txt"}
    more |= {"--calibration-tokens": 500, "--calibration-texts": 40, "--out": tmp_path / "o.json"}
    words = [str(word) for pair in more.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["four_models.py", *words])
    main.main()
    rows = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ASKED.split(",")
    assert not [row["failed"] for row in rows if "failed" in row]
    read = {row["row"]: row["tokens"] for row in rows if row.get("tokens")}
    assert read["keep-0.6"] == read["keep-0.6-whitened"] and len(read) == 2
    size = {row["row"]: row["weight_bytes"] for row in rows}
    assert size["int4-all"] < size["keep-0.6"] < size["dense"]
    assert size["keep-0.6-whitened"] == size["keep-0.6-svd"] <= size["keep-0.6"]
    assert len({row["score"] for row in rows}) == len(rows)


def test_rows_that_are_there_are_not_made_again(scripts, tmp_path, monkeypatch, capsys):
    main, rows = scripts("four_models"), scripts("four_models_rows")
    file, made = tmp_path / "rows.json", []

    def measured(model, name, given, record, work):
        made.append(name)
        if name == "int8" and made.count("int8") == 1:
            raise RuntimeError("no room")
        if name == "keep-0.8" and made.count("keep-0.8") == 1:
            raise KeyboardInterrupt
        figures = {"parameters": 10, "weight_bytes": 10**6, "score": len(made) / 10}
        figures["metric"] = "spearman"
        return {"model": model, "row": name, **figures}

    monkeypatch.setattr(main, "measured", measured)
    arguments = ["four_models.py", "--out", str(file), "--models", "minilm", "--rows"]
    monkeypatch.setattr(sys, "argv", [*arguments, "dense,int8,keep-0.8"])
    with pytest.raises(KeyboardInterrupt):
        main.main()
    assert [row["row"] for row in json.loads(file.read_text())["rows"]] == ["dense", "int8"]
    main.main()
    assert made == ["dense", "int8", "keep-0.8", "int8", "keep-0.8"]
    printed = capsys.readouterr().out
    assert all(f"| {rows.ROWS[name].about} | 10 |" in printed for name in made)
    assert "| 0.4000 | +0.3000 |" in printed
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--tokens", "9"])
    with pytest.raises(SystemExit, match=r"was made with .*: give another --out"):
        main.main()


def test_the_tables_of_the_docs_are_those_of_the_rows(scripts):
    rows = json.loads((FOLDER / "results" / "four-models.json").read_text("utf-8"))["rows"]
    page = (FOLDER.parent / "docs" / "results" / "four-models.md").read_text("utf-8")
    tables = scripts("four_models_table").markdown(rows)
    assert all(line in page.splitlines() for line in tables.splitlines())
    assert len([line for line in page.splitlines() if line.startswith("| tlm")]) >= 3
