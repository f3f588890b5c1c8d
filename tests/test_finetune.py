"""The verbs finetune and overparam through the command line: resume after kill -9, two processes,
merging, bad input."""

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from conftest import WORDS, of_two, output, pico, word_tokenizer
from safetensors.torch import load_file
from torch.distributed import run as torchrun
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)

import tlmtool
from tlmtool.cli import run
from tlmtool.models import surgery
from tlmtool.models.checkpoint import load
from tlmtool.models.surgery import plan_of
from tlmtool.recipe.rules import TRAINED
from tlmtool.tasks.table import GLUE
from tlmtool.training import finetune, growth, study
from tlmtool.training.loop import Trainer
from tlmtool.training.optimizing import Optimizer

FAST = ["--batch", "8", "--lr", "1e-3", "--max-length", "16", "--device", "cpu", "-q"]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tlmtool.commands.finetune", "transformers.models.bert"])
DYNAMIC = ["--strategy", "dynamic", "--N", "2", "--n", "1", "--every", "4", "--growth", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pico") / "model"
    pico("bert").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Whether the cat comes before the mat."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 160), ("dev", 40)):
        draw, rows = torch.Generator().manual_seed(count), ["sentence\tlabel"]
        for _ in range(count):
            order = torch.randperm(len(WORDS), generator=draw).tolist()
            label = order.index(WORDS.index("cat")) < order.index(WORDS.index("mat"))
            rows.append(f"{' '.join(WORDS[i] for i in order)}\t{int(label)}")
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def arguments(model, data, out, *more) -> list[str]:
    words = ["finetune", str(model), "--task", "classification", "--data", str(data)]
    return [*words, "--out", str(out), *FAST, *map(str, more)]


def started(call, words) -> BaseProcess:
    """A new process, forked from one that has imported what takes long."""
    process = PROCESSES.Process(target=call, args=(words,))
    process.start()
    return process


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_what_is_over_parameterized_is_merged_and_loads_without_us(model, data, tmp_path):
    out = tmp_path / "out"
    assert run(arguments(model, data, out, "--steps", 16, *DYNAMIC)) == 0
    report = json.loads((out / "report.json").read_text())
    assert len(report["expansions"]) == 12 and len(report["selections"]) == 2
    chosen = [site for each in report["selections"] for site in each["chosen"]]
    assert sorted(chosen) == sorted({each["site"] for each in report["expansions"]})
    for each in report["expansions"]:
        assert min(each["first_update"].values()) > 0 and each["growth"] > 1.5
    assert report["parity"]["relative"] <= 1e-5
    assert report["parameters"]["before"] == report["parameters"]["after"]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "tlmtool"]:
            patch.setitem(sys.modules, name, None)  # whoever imports it fails
        found = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(found) is BertForSequenceClassification and type(found.config) is BertConfig
    assert not out.with_name("out.training").exists()


def test_kept_cores_reload_and_give_the_merged_model(model, data, tmp_path):
    merged, kept, again = (tmp_path / name for name in ("merged", "kept", "again"))
    more = ("--steps", 10, *DYNAMIC)
    assert run(arguments(model, data, merged, *more)) == 0
    assert run(arguments(model, data, kept, *more, "--no-merge")) == 0
    assert run(["merge", str(kept), "--out", str(again), "-q"]) == 0
    for name, weight in weights(merged).items():
        torch.testing.assert_close(weights(again)[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strategy", ["dynamic", "static", "none"])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(model, data, tmp_path, strategy):
    more = ["--steps", 24, *DYNAMIC, "--save-every", 3]
    more[more.index("dynamic")] = strategy
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started(run, arguments(model, data, whole, *more)).join()
    words = arguments(model, data, killed, *more, "--resume")
    state, kills = killed.with_name("killed.training") / "state.pt", 0
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = started(run, words)
        while process.is_alive():
            if state.exists() and state.stat().st_mtime_ns > before:
                process.kill()
                break
            time.sleep(0.001)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    started(run, words).join()
    assert kills >= 1 and not state.exists()
    first, second = weights(whole), weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_select_and_learn_as_one(model, data, tmp_path):
    more = ("--steps", 20, *DYNAMIC, "--dropout", 0, "--evaluate-every", 1)
    one, two, logs = (tmp_path / name for name in ("one", "two", "logs"))
    assert run(arguments(model, data, one, *more)) == 0
    launch = ["--nproc_per_node", "2", "--master_port", str(29500 + os.getpid() % 1000)]
    launch += ["--redirects", "1", "--log-dir", str(logs), "-m", "--", "tlmtool"]
    process = started(torchrun.main, [*launch, *arguments(model, data, two, *more), "--json"])
    process.join()
    assert process.exitcode == 0
    found, silent = (next(logs.glob(f"**/{rank}/stdout.log")).read_text() for rank in (0, 1))
    single, double = json.loads((one / "report.json").read_text()), json.loads(found)
    assert double["training"]["processes"] == 2 and not silent
    assert [s["chosen"] for s in single["selections"]] == [
        s["chosen"] for s in double["selections"]
    ]
    losses = [[h["loss"] for h in r["training"]["history"]] for r in (single, double)]
    assert len(losses[0]) == 20
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) <= 1e-5


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_state(
    model, data, tmp_path, capsys
):
    """The first step of warm-up has rate 0, the second spoils the weights, the third finds out."""
    out = tmp_path / "out"
    more = ("--steps", 60, "--save-every", 1, "--clip", 0, "--warmup", 30)
    words = arguments(model, data, out, *more)
    words[words.index("1e-3")] = "1e30"
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "the loss is nan at step 3" in said and "out.training" in said and not out.exists()
    kept = torch.load(out.with_name("out.training") / "state.pt", weights_only=True)["state"]
    assert kept["step"] == 1 and all(w.isfinite().all() for w in kept["model"].values())
    assert run(words) == 2 and "--resume" in capsys.readouterr().err


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "more",
    [
        ["--strategy", "dynamic"],
        ["--strategy", "dynamic", "--keep-best", "--evaluate-every", "5", "--method", "svd"],
        ["--strategy", "static", "--importance", "fisher"],
        ["--strategy", "none", "--accumulate", "3", "--patience", "9"],
    ],
    ids=lambda more: " ".join(more[1:4]),
)
def test_every_saved_state_leads_to_the_same_weights(model, data, tmp_path, monkeypatch, more):
    """A chain of runs, each of which goes from one saved state to the next."""
    words = ("--steps", 24, *DYNAMIC, *more, "--save-every", 3)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(arguments(model, data, whole, *words)) == 0
    learn, first, begun = Trainer.learn, weights(whole), []
    for stop in range(3, 27, 3):
        steps = []

        def stopping(self, *args, stop=stop, steps=steps):
            steps.append(self.step)
            if self.step == stop + 1:  # the state of `stop` has proved good
                raise Stopped
            return learn(self, *args)

        monkeypatch.setattr(Trainer, "learn", stopping)
        assert run(arguments(model, data, out, *words, "--resume")) == int(stop < 24)
        begun.append(steps[0])
    second = weights(out)
    assert begun == [*range(0, 24, 3)]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["taylor", "fisher", "zero-out"])
def test_static_chooses_by_what_it_measured(model, data, tmp_path, kind):
    out, again = tmp_path / "out", tmp_path / "again"
    more = ["--strategy", "static", "--N", "1", "--importance", kind, "--growth", "2"]
    assert run(arguments(model, data, out, "--steps", 8, *more)) == 0
    assert run(arguments(out, data, again, "--steps", 4, *more)) == 0  # it has the head already
    for folder, step in ((out, 5), (again, 1)):
        (entry,) = json.loads((folder / "report.json").read_text())["selections"]
        assert entry["step"] == step and min(entry["scores"].values()) > 0
        assert len(entry["chosen"]) == 6


def test_static_leaves_what_was_expanded_before(model, data, tmp_path):
    large, out = tmp_path / "large", tmp_path / "out"
    words = ["overparam", str(model), "--growth", "2", "--sites", "attention", "-q"]
    assert run([*words, "--out", str(large)]) == 0
    more = ["--strategy", "static", "--sites", "ffn", "--N", "1", "--growth", "2", "--no-merge"]
    assert run(arguments(large, data, out, "--steps", 6, *more)) == 0
    assert len(plan_of(load(out))) == 8 + 2


def test_the_best_model_is_kept_whenever_the_run_ends(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 9, "--keep-best", "--evaluate-every", 4, *DYNAMIC)
    assert run(arguments(model, data, out, *more)) == 0
    report = json.loads((out / "report.json").read_text())
    steps = [each["step"] for each in report["training"]["history"]]
    assert steps == [4, 8, 9] and report["training"]["chosen_step"] in steps
    best = max(report["training"]["history"], key=lambda each: each["score"])
    assert report["training"]["chosen_step"] == best["step"]
    assert "set aside" in report["training"]["watched"] and report["training"]["examples"] == 144
    before = [s for s in report["selections"] if s["step"] <= best["step"]]
    assert len(report["expansions"]) == 6 * len(before)


def test_patience_ends_a_run(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 60, "--patience", 2, "--evaluate-every", 1, "--lr", "1e-9")
    assert run(arguments(model, data, out, *more)) == 0
    assert json.loads((out / "report.json").read_text())["training"]["steps"] == 3


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_every_schedule_warms_up(model, name):
    found = AutoModel.from_pretrained(model)
    optimizer = Optimizer(found, {}, 1.0, 0.0, name, 4, 12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.lr)
        optimizer.step()
    assert rates[:5] == [0, 0.25, 0.5, 0.75, 1] and (rates[-1] == 1) == (name == "constant")


def test_mixed_precision_saves_and_scores_the_float32_model(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    more = ("--steps", 6, "--precision", "bf16", "--checkpointing", *DYNAMIC)
    assert run(arguments(model, data, out, *more)) == 0
    report = json.loads((out / "report.json").read_text())
    assert 0 < report["parity"]["relative"] <= 1e-5  # under autocast it would be 0, or much more
    capsys.readouterr()
    words = ["evaluate", str(out), "--task", "classification", "--data", str(data), "--json", "-q"]
    assert run(words) == 0
    score = json.loads(capsys.readouterr().out)["models"][0]["score"]
    assert score == report["scores"]["after"]["score"]


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--task", "colla"], 2, "did you mean cola"),
        (["--label-column", "missing"], 4, "no column missing"),
        (["--N", "1", "--n", "2", "--strategy", "dynamic"], 2, "below"),
        (["--N", "0"], 2, "at least 1"),
        (["--growth", "0.5"], 2, "above 1"),
        (["--task", "clm"], 4, "is a directory"),
        (["--batch", "2", "--accumulate", "4"], 1, "too few for a batch"),
        (["--data", "no/such/folder"], 4, "does not exist"),
    ],
)
def test_bad_input_is_one_sentence(model, data, tmp_path, capsys, more, code, says):
    words = arguments(model, data, tmp_path / "out", "--steps", 2, *more)
    assert run(words) == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_a_teacher_teaches_the_factors_only(model, tmp_path, capsys):
    texts, small = tmp_path / "texts.txt", tmp_path / "small"
    texts.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    assert run(["compress", str(model), "--rank", "2", "--out", str(small), "-q"]) == 0
    out = tmp_path / "out"
    words = ["finetune", str(small), "--teacher", str(model), "--data", str(texts)]
    assert run([*words, "--out", str(out), "--steps", "30", "--batch", "4", "-q"]) == 0
    scores = json.loads((out / "report.json").read_text())["scores"]
    assert scores["after"]["score"] < scores["before"]["score"]
    before, after = weights(small), weights(out)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".weight." in name for name in moved)


@pytest.fixture
def texts(tmp_path) -> Path:
    draw, file = torch.Generator().manual_seed(0), tmp_path / "texts.txt"
    orders = (torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(100))
    file.write_text("\n".join(" ".join(WORDS[i] for i in order) for order in orders) + "\n")
    return file


@pytest.mark.parametrize("trained", ["factors", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recovery_brings_a_compressed_model_nearer(model, texts, tmp_path, dtype, trained):
    out = tmp_path / "out"
    words = ["compress", str(model), "--rank", "2", "--recover", "30", "--recover-batch", "4"]
    words += ["--recover-train", trained, "--dtype", dtype]
    assert run([*words, "--data", str(texts), "--out", str(out), "-q"]) == 0
    report = json.loads((out / "report.json").read_text())
    found = report["recovery"]
    assert report["calibration"]["source"] == str(texts)
    assert found["recovered"] < found["compressed"] and found["dense"] == 0
    assert found["trained"] == trained
    assert load(out).dtype == getattr(torch, dtype)
    name = "embeddings.LayerNorm.weight"
    before, after = (load_file(f / "model.safetensors")[name] for f in (model, out))
    moved = not torch.equal(before.to(after.dtype), after)
    assert moved == (trained == "all") or dtype == "bfloat16"  # which may round a step away


def test_a_teacher_that_does_not_fit_is_refused(model, texts, tmp_path, capsys):
    wide, other = tmp_path / "wide", tmp_path / "other"
    pico("bert", hidden_size=48).save_pretrained(wide)
    pico("bert").save_pretrained(other)
    word_tokenizer().save_pretrained(wide)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(other)
    common = ["finetune", str(model), "--data", str(texts), "--out", str(tmp_path / "out"), "-q"]
    for teacher, says in ((wide, "has width 48"), (other, "reads other tokens")):
        assert run([*common, "--teacher", str(teacher), "--train", "all"]) == 2
        assert says in capsys.readouterr().err
    assert run([*common, "--teacher", str(model), "--task", "mlm"]) == 2
    assert "--teacher goes with" in capsys.readouterr().err


def test_a_teacher_of_figures_teaches_a_new_head_too(model, tmp_path):
    """A regression teacher: its output, not a distribution, is what is learned."""
    rows = [f"{' '.join(WORDS[i:] + WORDS[:i])}\t{i}.0" for i in range(len(WORDS))] * 3
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    data, teacher, out = tmp_path / "pairs.tsv", tmp_path / "teacher", tmp_path / "out"
    words = ["--task", "regression", "--data", str(data), "--steps", "3", *FAST]
    assert run(["finetune", str(model), *words, "--out", str(teacher)]) == 0
    taught = ["finetune", str(model), "--teacher", str(teacher), "--train", "all", *words]
    assert run([*taught, "--out", str(out)]) == 0
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_labels == 1


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_overparam_is_exact_reloads_and_merges_back(family, tmp_path):
    model, folder, out, back = pico(family), *(tmp_path / n for n in ("dense", "large", "back"))
    model.save_pretrained(folder)
    assert run(["overparam", str(folder), "--growth", "3", "--out", str(out), "-q"]) == 0
    parameters = json.loads((out / "report.json").read_text())["parameters"]
    assert abs(parameters["growth"] - 3) <= 0.08 * 3
    large, before = load(out), output(model)
    assert large.config.model_type.startswith("tlm-")
    assert (output(large) - before).abs().max() <= 1e-5 * before.abs().max()
    assert run(["merge", str(out), "--out", str(back), "-q"]) == 0
    merged = AutoModel.from_pretrained(back)
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in model.parameters())
    assert (output(merged) - before).abs().max() <= 1e-5 * before.abs().max()


def test_a_total_is_met_and_an_impossible_size_refused(model, tmp_path, capsys):
    total = sum(p.numel() for p in AutoModel.from_pretrained(model).parameters())
    words = ["overparam", str(model), "--out", str(tmp_path / "out"), "-q"]
    assert run([*words, "--to-params", str(2 * total)]) == 0
    made = json.loads((tmp_path / "out" / "report.json").read_text())["parameters"]["after"]
    assert abs(made - 2 * total) <= 0.08 * 2 * total
    capsys.readouterr()
    for size, says in ((["--to-params", "10"], "not above"), (["--growth", "1"], "above 1")):
        assert run([*words, *size, "--overwrite"]) == 2 and says in capsys.readouterr().err
    assert run([*words, "--growth", "9", "--cores", "3"]) == 2


@pytest.mark.parametrize("size", [(31, 37), (32, 48), (768, 768), (384, 1536), (30522, 384)])
@pytest.mark.parametrize("wanted", [1.25, 3.0, 6.0])
def test_a_form_is_as_large_as_asked(size, wanted):
    form = growth.expansion(*size, wanted)
    assert abs(form.parameters(*size) / (size[0] * size[1]) - wanted) <= 0.08 * wanted


def test_a_study_compares_arms_and_goes_on(model, data, tmp_path):
    out = tmp_path / "study"
    words = arguments(model, data, out, "--steps", 6, "--every", 2, "--N", 1, "--n", 1)
    arms = "dense,dense-matched,frozen,svd,mpo-static,mpo-dynamic"
    del words[words.index("--lr") : words.index("--lr") + 2]
    words += ["--arms", arms, "--seeds", "2", "--lr-grid", "1e-3,1e-4"]
    assert run(words) == 0
    report = json.loads((out / "report.json").read_text())["study"]
    assert {each["arm"] for each in report["arms"]} == set(arms.split(","))
    assert len(report["pairs"]) == 15 and {r["steps"] for r in report["results"]} == {6}
    (out / "svd-seed1.json").unlink()
    assert run(words) == 2 and run([*words, "--resume"]) == 0
    again = json.loads((out / "report.json").read_text())["study"]
    assert again["arms"] == report["arms"]


def test_the_arms_of_a_study_are_what_they_say(model, data, tmp_path, monkeypatch):
    """frozen does not move what was chosen, dense-matched has the measured rate; accelerate keeps
    nothing of the runs that are over."""
    out, seen = tmp_path / "study", []
    prepare, accelerators, made_of = study.prepare, [], finetune.accelerator_of

    def kept(*args):
        accelerators.append(made_of(*args))
        return accelerators[-1]

    monkeypatch.setattr(finetune, "accelerator_of", kept)

    def noting(*args):
        job = prepare(*args)
        sites = {s: job.model.base_model.get_submodule(s) for s in surgery.sites(job.model)}
        seen.append((job, {s: m.weight.detach().clone() for s, m in sites.items()}))
        return job

    monkeypatch.setattr(study, "prepare", noting)
    words = arguments(model, data, out, "--steps", 6, "--every", 2, "--N", 1, "--n", 1)
    assert run([*words, "--arms", "dense,dense-matched,frozen,mpo-dynamic", "--seeds", "1"]) == 0
    found = {
        each["arm"]: each
        for each in json.loads((out / "report.json").read_text())["study"]["results"]
    }
    chosen, ratio = found["mpo-dynamic"]["chosen"], found["mpo-dynamic"]["step_ratio"]
    assert found["dense-matched"]["lr"] == pytest.approx(found["dense"]["lr"] * ratio)
    moved = []
    for job, before in seen:
        base = job.model.base_model
        moved.append(
            {s for s, w in before.items() if not torch.equal(base.get_submodule(s).weight, w)}
        )
    assert any(not each & set(chosen) and each for each in moved)  # one arm of them: frozen
    assert sum(bool(each & set(chosen)) for each in moved) == 3
    assert len(accelerators) == 1 and not accelerators[0]._models


def test_a_study_that_cannot_be_is_refused(model, data, tmp_path, capsys, monkeypatch):
    words = arguments(model, data, tmp_path / "out", "--steps", 2, "--seeds", 1)
    assert run([*words, "--keep-best"]) == 2 and "equal steps" in capsys.readouterr().err
    assert run([*words, "--arms", "dense-matched,mpo-dynamic"]) == 2
    assert "expanded nothing in 2 steps: lower --every" in capsys.readouterr().err
    of_two(monkeypatch)
    assert run(words) == 2 and "in one process" in capsys.readouterr().err


def test_the_rate_of_the_cores_is_matched_unless_told_otherwise(model, data, tmp_path):
    ratios = {}
    for name, more in (("matched", []), ("plain", ["--no-lr-match"])):
        out = tmp_path / name
        assert run(arguments(model, data, out, "--steps", 5, *DYNAMIC, *more)) == 0
        ratios[name] = [
            max(each["first_update"].values()) / each["step_ratio"] ** (name == "plain")
            for each in json.loads((out / "report.json").read_text())["expansions"]
        ]
    assert ratios["plain"] == pytest.approx(ratios["matched"], rel=0.05)


def test_the_tasks_of_the_schema_are_those_of_the_data():
    own = {"classification", "regression", "grammar", "mlm", "clm", "translation"}
    assert set(TRAINED) == {*GLUE, *own}


def test_what_was_trained_is_scored_by_evaluate(model, data, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    assert run(arguments(model, data, out, "--epochs", 3)) == 0
    assert run(arguments(model, data, other, "--steps", 1)) == 0
    words = ["evaluate", str(out), "--task", "classification", "--data"]
    capsys.readouterr()
    assert run([*words, str(data), "--baseline", str(other), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    trained = json.loads((out / "report.json").read_text())["scores"]["after"]
    assert found["models"][0]["score"] == trained["accuracy"] and found["metric"] == "accuracy"
    low, high = found["baseline"]["interval"]
    assert low <= found["baseline"]["difference"] <= high and found["models"][0]["n"] == 40
    assert run([*words, str(data / "dev.tsv"), "-q"]) == 0
    words[words.index("classification")] = "mnli"
    assert run([*words, str(data)]) == 4 and "no column" in capsys.readouterr().err
    words = ["evaluate", str(model), "--task", "grammar"]
    assert run(words) == 2 and "has no head for it" in capsys.readouterr().err
    assert run(["evaluate", str(out), "--task", "regression", "--data", str(data)]) == 2
    assert "has 2 outputs, the task needs 1" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "task"), [("bert", "mlm"), ("gpt2", "clm"), ("llama", "clm")])
def test_language_models_learn_and_keep_their_head(family, task, tmp_path):
    source, out, texts = (tmp_path / name for name in ("source", "out", "texts.txt"))
    pico(family).save_pretrained(source)
    word_tokenizer().save_pretrained(source)
    texts.write_text("\n".join(" ".join(WORDS[i % 5 :]) for i in range(64)) + "\n")
    words = ["finetune", str(source), "--task", task, "--data", str(texts), *FAST]
    assert run([*words, "--steps", "40", *DYNAMIC, "--out", str(out), "--lr", "1e-2"]) == 0
    report = json.loads((out / "report.json").read_text())
    scores = [row["score"] for row in report["training"]["history"] if "score" in row]
    assert scores[-1] < scores[0] and len(report["expansions"]) > 0
    assert report["model"]["class"].endswith(("ForMaskedLM", "ForCausalLM", "LMHeadModel"))
    wrong = "clm" if task == "mlm" else "mlm"
    assert run(["finetune", str(source), "--task", wrong, "--data", str(texts), "-q"]) == 2


def test_a_dry_run_tells_the_cost_and_writes_nothing(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = arguments(model, data, out, "--epochs", 2, *DYNAMIC, "--dry-run", "--json")
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] and "40 steps" in found["step"]["note"] and not out.exists()
    step = found["step"]
    assert step["step_flops"]["after"] > step["step_flops"]["before"] > 0
    large = sum(each["growth"] > 1.5 for each in found["expanded"])
    assert large == len(found["expanded"]) == 12


def test_a_tracker_logs_beside_the_checkpoint(model, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    words = arguments(model, data, out, "--steps", 4, "--tracker", "tensorboard")
    assert run(words) == 0
    logs = list((tmp_path / "out.tensorboard").glob("**/events.out.tfevents*"))
    assert logs and sum(log.stat().st_size for log in logs) > 200
    monkeypatch.setattr("tlmtool.training.finetune.find_spec", lambda name: None)
    assert run([*words, "--overwrite"]) == 5 and "pip install" in capsys.readouterr().err


def test_accelerate_launches_it(model, data, tmp_path):
    launch = ["--multi_gpu", "--num_processes", "2"]  # so that it starts two, on CPUs too
    port = ["--main_process_port", str(30500 + os.getpid() % 1000)]
    words = ["-m", "tlmtool", *arguments(model, data, tmp_path / "out", "--steps", 4, *DYNAMIC)]
    words[words.index("4") + 1 : words.index("4") + 1] = ["--every", "2"]
    launch_command(launch_command_parser().parse_args([*launch, *port, *words]))
    training = json.loads((tmp_path / "out" / "report.json").read_text())["training"]
    assert training["steps"] == 4 and training["processes"] == 2 and not training["sharded"]


def test_the_cap_of_a_strategy_and_what_did_not_fit_are_said(model, data, tmp_path):
    out = tmp_path / "out"
    more = ("--steps", 6, "--strategy", "dynamic", "--N", 12, "--n", 1, "--every", 4)
    assert run(arguments(model, data, out, *more)) == 0
    said = " ".join(json.loads((out / "report.json").read_text())["warnings"])
    assert "capped at 2, the layers" in said and "select 1 of 2 matrices of query" in said


def test_a_command_from_python(model, data, tmp_path):
    made = tlmtool.run("finetune", str(model), task="classification", data=data, steps=2,
                       batch=8, out=tmp_path / "out", sets=["training.max_length=16"])  # fmt: skip
    assert made.data["training"]["steps"] == 2 and (tmp_path / "out" / "config.json").exists()
    with pytest.raises(tlmtool.Failure, match="did you mean cola"):
        tlmtool.run("finetune", str(model), task="colla")


def test_overparam_from_python_is_merged_back():
    model = pico("bert").eval()
    before, count = output(model), sum(p.numel() for p in model.parameters())
    tlmtool.overparam(model, growth=2, sites=["ffn"])
    assert sum(p.numel() for p in model.parameters()) > count
    assert (output(model) - before).abs().max() <= 1e-5 * before.abs().max()
    tlmtool.merge(model)
    assert sum(p.numel() for p in model.parameters()) == count


def test_a_classifier_is_what_is_saved(model, data, tmp_path):
    out = tmp_path / "out"
    assert run(arguments(model, data, out, "--epochs", 1, "--keep-best", "--accumulate", 2)) == 0
    made = AutoModelForSequenceClassification.from_pretrained(out)
    assert made.config.id2label == {0: "0", 1: "1"}
