"""What `tlm finetune` and `tlm overparam` refuse, check and report of a training."""

import json
import shutil

import pytest
import torch
import trainings
import transformers
from conftest import MASKED, WORDS, pico, word_tokenizer
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from trainings import (
    FAST,
    arguments,
)

from tlmtool.cli import run
from tlmtool.models.checkpoint import load
from tlmtool.recipe.building import build
from tlmtool.training import finetune
from tlmtool.training.jobs import prepare
from tlmtool.training.loop import Trainer
from tlmtool.training.outcome import Outcome

model, data = trainings.model, trainings.data  # its fixtures


def test_outputs_that_are_no_numbers_fail_the_check(model, tmp_path, capsys):
    """Weights are finite, what they give is not: no difference of NaN is above a tolerance."""
    broken, out = shutil.copytree(model, tmp_path / "broken"), tmp_path / "out"
    weights = load_file(broken / "model.safetensors")
    weights["encoder.layer.0.intermediate.dense.weight"].fill_(3e38)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    words = ["overparam", str(broken), "--growth", "2", "--sites", "attention"]
    assert run([*words, "--out", str(out), "-q"]) == 3 and not out.exists()
    assert "hold NaN or infinity" in capsys.readouterr().err
    words = ["compress", str(broken), "--rank", "2", "--calibration", "none", "-q"]
    assert run([*words, "--out", str(out)]) == 0
    assert run(["merge", str(out), "--out", str(tmp_path / "again"), "-q"]) == 3
    assert "hold NaN or infinity" in capsys.readouterr().err


def untrained(monkeypatch):
    """Whatever is refused is refused before the first step."""
    monkeypatch.setattr(Trainer, "learn", lambda *args: pytest.fail("a step was taken"))


@pytest.mark.parametrize("strategy", ["static", "dynamic"])
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--growth", 50, "--cores", 5], "growth 50 is above 5, the most of 5 cores"),
        (["--growth", 1.02, "--cores", 200], "1.02 with 200 cores does not fit a matrix of"),
        (["--sites", "embedding"], "names embeddings.word_embeddings"),
        (["--sites", "attention,embedding"], "an embedding cannot be over-parameterized"),
        (["--sites", "all"], "an embedding cannot be over-parameterized"),
        (["--dtype", "bfloat16"], "--precision bf16 is mixed precision"),
        (["--dtype", "float16"], "cores of float16 do not give back"),
    ],
)
def test_an_expansion_that_cannot_be_is_refused_before_training(
    model, data, tmp_path, capsys, monkeypatch, strategy, more, says
):
    untrained(monkeypatch)
    words = arguments(model, data, tmp_path / "out", "--steps", 4, "--strategy", strategy, *more)
    for also in ([], ["--dry-run"]):
        assert run([*words, *also]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("more", [[], ["--keep-best"]], ids=["all", "best"])
def test_the_loss_of_a_row_is_the_mean_over_what_was_seen_since_the_last(
    model, data, tmp_path, monkeypatch, more
):
    """Batches of unequal sizes in unequal micro-batches, and a short last interval; the weights
    stay as they are, so that an epoch's loss is that of its examples."""
    learn, seen, jobs = Trainer.learn, [], []

    def noting(self, epoch, places):
        jobs.append(self)
        seen.append(places)
        return learn(self, epoch, places)

    monkeypatch.setattr(Trainer, "learn", noting)
    words = arguments(model, data, tmp_path / "out", "--steps", 6, "--accumulate", 3, *more)
    words += ["--batch", "50", "--lr", "1e-30", "--dropout", "0"]
    assert run(words) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["training"]
    rows, last = report["history"], jobs[-1]
    epoch = 4 if not more else 3  # a tenth of 160 examples is set aside
    assert [row["step"] for row in rows] == [*range(epoch, 6, epoch), 6]
    assert ("score" in rows[-1]) == bool(more) and len({*map(len, seen)}) > 1
    objective, start = last.objective, 0
    last.model.eval()
    for row in rows:
        places = [place for each in seen[start : row["step"]] for place in each]
        with torch.no_grad():
            part = objective.part(places, 0)
            mean = float(objective.loss(last.model, last.model, part)) / len(places)
        assert row["loss"] == pytest.approx(mean, rel=1e-4)
        start = row["step"]
    whole = last.outcome.loss(0)
    assert report["last_loss"] == pytest.approx(whole, rel=1e-6)


def test_tokens_weigh_the_loss_of_a_language_model():
    assert Outcome(losses=[1.0, 4.0, 7.0], sizes=[2, 1, 0]).loss() == 2.0
    assert Outcome(losses=[1.0, 4.0, 7.0], sizes=[2, 1, 3]).loss(1) == 6.25


class Stopped(Exception):
    pass


def test_a_run_that_starts_again_keeps_the_old_state_until_it_has_one(
    model, data, tmp_path, capsys, monkeypatch
):
    """But from its first good step on, that state is none to resume."""
    out, learn = tmp_path / "out", Trainer.learn
    state, replaced = (tmp_path / "out.training" / f"{n}.pt" for n in ("state", "replaced"))

    def stopping(self, *args):
        if self.step == stop:
            raise Stopped
        return learn(self, *args)

    monkeypatch.setattr(Trainer, "learn", stopping)
    words, stop = arguments(model, data, out, "--steps", 8, "--save-every", 2), 5
    assert run(words) == 1
    kept = state.read_bytes()
    assert torch.load(state, weights_only=True)["state"]["step"] == 4
    assert run([*words, "--overwrite", "--data", "no/such/folder"]) == 4  # bad input
    stop = 0
    assert run([*words, "--overwrite"]) == 1  # killed before its first step has proved good
    assert state.read_bytes() == kept
    stop = 2
    assert run([*words, "--overwrite"]) == 1  # killed before its first state has proved good
    assert replaced.read_bytes() == kept and not state.exists()
    stop = 0
    assert run([*words, "--resume"]) == 1  # at the first step: not where the old run was
    assert replaced.read_bytes() == kept
    stop = 4
    assert run([*words, "--resume"]) == 1
    assert not replaced.exists() and torch.load(state, weights_only=True)["state"]["step"] == 2
    capsys.readouterr()
    stop = None
    assert run([*words, "--overwrite", "--lr", "1e30", "--clip", 0, "--save-every", 100]) == 1
    assert "the loss is nan" in (said := capsys.readouterr().err) and "last good" not in said
    assert run([*words, "--resume"]) == 0 and not state.parent.exists()


def test_a_run_goes_on_from_the_same_input_and_version_alone(
    model, data, tmp_path, capsys, monkeypatch
):
    source, learn = shutil.copytree(model, tmp_path / "source"), Trainer.learn
    words = arguments(source, data, tmp_path / "out", "--steps", 8, "--save-every", 2)

    def stopping(self, *args):
        if self.step == 3:
            raise Stopped
        return learn(self, *args)

    monkeypatch.setattr(Trainer, "learn", stopping)
    assert run(words) == 1
    untrained(monkeypatch)
    pico("bert", seed=1).save_pretrained(source)
    capsys.readouterr()
    assert run([*words, "--resume"]) == 2
    said = capsys.readouterr().err
    assert "model.safetensors (model) is not the file" in said and said.count("\n") == 1
    state = tmp_path / "out.training" / "state.pt"
    kept = torch.load(state, weights_only=True)
    torch.save({key: kept[key] for key in ("identity", "state")}, state)
    assert run([*words, "--resume"]) == 2
    said = capsys.readouterr().err
    assert "of another version of tlm" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["BertForPreTraining", "ElectraForPreTraining"])
def test_a_pretraining_head_is_that_of_mlm_where_it_holds_one(name, tmp_path):
    """ELECTRA's tells tokens that were replaced: its generator's is new, and no score before."""
    cls, source, out = getattr(transformers, name), tmp_path / "source", tmp_path / "out"
    cls(pico(name[: -len("ForPreTraining")].lower()).config).save_pretrained(source)
    word_tokenizer().save_pretrained(source)
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(WORDS[i:]) for i in range(9)) * 9)
    words = ["finetune", str(source), "--task", "mlm", "--data", str(tmp_path / "texts.txt")]
    assert run([*words, *FAST, "--steps", "1", "--out", str(out)]) == 0
    scores = json.loads((out / "report.json").read_text())["scores"]
    assert ("before" in scores) == (name == "BertForPreTraining")


@pytest.mark.parametrize("family", MASKED)
def test_the_forecast_of_mlm_is_what_a_step_takes(family, tmp_path, capsys):
    """The head is given the predicted tokens alone: 15 % of a text's own."""
    source, texts = tmp_path / "source", tmp_path / "texts.txt"
    pico(family).save_pretrained(source)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(source)
    texts.write_text("\n".join(" ".join((WORDS * 4)[i : i + 40]) for i in [0, 1] * 32) + "\n")
    words = ["finetune", str(source), "--task", "mlm", "--data", str(texts), *FAST, "--dry-run"]
    words[words.index("16")] = "64"
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["step"]
    step = found["step_flops"]["before"]
    assert "15% of which the head is given" in found["note"]
    flags = {"model": str(source), "task": "mlm", "data": str(texts), "max-length": "64"}
    recipe = finetune.resolved(build("finetune", flags))
    job = prepare(recipe, load, tokenizer, source)
    part = job.objective.part(list(range(8)), 0)
    job.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        job.objective.loss(job.model, job.model, part).backward()
    assert step == pytest.approx(counter.get_total_flops(), rel=0.03)
