"""What `--fail-if` may name is known, and refused, before anything is loaded; and is in reports."""

import json
import re

import pytest
from conftest import pico, sentences, word_tokenizer

from tlmtool.cli import run
from tlmtool.failure import Usage
from tlmtool.models.folder import Folder
from tlmtool.recipe.sources import from_mapping
from tlmtool.recipe.verbs import VERBS
from tlmtool.report import checks
from tlmtool.report.helped import HELPED
from tlmtool.report.layout import leaves
from tlmtool.report.report import Report
from tlmtool.report.timed import SECONDS

SMALL = "--steps 2 --every 1 --N 1 --n 1 --growth 2"
SCORE = "score.n score.before score.after score.difference score.level score.interval.0 "
SCORE += "score.interval.1 score.resamples"  # which plain texts do not give
JOINED = "calibration.windows calibration.window quality.tokens " + " ".join(
    f"quality.{name}.{each}"
    for name, held in {
        "perplexity": "before after ratio interval.0 interval.1",
        "nats": "difference interval.0 interval.1",
    }.items()
    for each in held.split()
)  # of a causal language model
RECOVERY = " ".join(
    f"recovery.{name}.{each}"
    for name in ("loss", "perplexity")
    for each in ("dense", "compressed", "recovered")
)  # of a language model
RUNS = {  # {name: (words, what a report may leave out)}
    "rank": ("compress {bert} --rank 2 --out {out}", JOINED),
    "keep": ("compress {base} --keep 0.5 --recover 1 --data {texts} --out {out}",
             f"{JOINED} {SCORE} {RECOVERY} recovery.windows recovery.window "
             f"recovery.tokens recovery.off"),
    "recover": ("compress {gpt2} --rank 2 --recover 1 --data {texts} --out {out}",
                f"{SCORE} quality.texts calibration.texts quality.perplexity.interval.0 "
                f"recovery.sentences recovery.off quality.perplexity.interval.1 "
                "quality.nats.interval.0 quality.nats.interval.1"),
    "score": ("compress {class} --rank 2 --data {mrpc} --out {out}", f"{JOINED} score.resamples"),
    "attention": ("compress {gpt2} --attention dimensionwise --out {out}",
                  "calibration.tokens calibration.texts quality.texts"),
    "dry": ("compress {bert} --rank 2 --dry-run", f"{JOINED} calibration.tokens calibration.texts"),
    "dry keep": ("compress {bert} --keep 0.5 --dry-run",
                 f"{JOINED} calibration.tokens range.parameters.least"),
    "dry energy": ("compress {gpt2} --energy 0.5 --dry-run",
                   "calibration.tokens calibration.texts"),
    "merge": ("merge {small} --out {out}", "parity.rounding"),
    "overparam": ("overparam {bert} --growth 2 --out {out}", ""),
    "overparam dry": ("overparam {bert} --growth 2 --dry-run", ""),
    "export": ("export {small} --to onnx --bits 8 --runs 1 --out {out}", ""),
    "export dry": ("export {small} --to onnx --dry-run", ""),
    "profile": ("profile {bert} --against {small} --seq-len 8,9 --latency --runs 1", ""),
    "kernels": ("profile --attention softmax --heads 2 --head-width 4 --runs 1", ""),
    "mlm": ("evaluate {bert} --task mlm --baseline {small}", "models.0.blocks baseline.blocks"),
    "pack": ("evaluate {gpt2} --task clm --data {texts} --pack --max-length 8", ""),
    "cola": ("evaluate {class} --task cola --data {cola}", ""),
    "mrpc": ("evaluate {class} --task mrpc --data {mrpc}", ""),
    "finetune": (f"finetune {{base}} --task cola --data {{cola}} --strategy dynamic {SMALL} "
                 "--out {out}", "scores.before.score scores.before.matthews training.processes"),
    "language": ("finetune {gpt2} --task clm --data {texts} --steps 1 --out {out}",
                 f"{JOINED} training.processes quality.texts"),
    "finetune dry": (f"finetune {{base}} --task cola --data {{cola}} --strategy dynamic {SMALL} "
                     "--dry-run", ""),
    "study": (f"finetune {{base}} --task cola --data {{cola}} {SMALL} --seeds 1 --arms dense "
              "--out {out}", ""),
    "study dry": (f"finetune {{base}} --task cola --data {{cola}} {SMALL} --seeds 1 --arms dense "
                  "--dry-run", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict:
    """{name: path} of models, of data, and of a compressed model."""
    folder, texts = tmp_path_factory.mktemp("checks"), sentences(30)
    kinds = {"bert": "lm", "gpt2": "lm", "base": "base", "class": "classification"}
    for name, head in kinds.items():
        pico(name if name == "gpt2" else "bert", head).save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    (folder / "texts.txt").write_text("\n".join(texts))
    for name, columns in (("cola", ["sentence"]), ("mrpc", ["sentence1", "sentence2"])):
        (folder / name).mkdir()
        lines = [",".join([*columns, "label"])]
        lines += [",".join([*[text] * len(columns), str(i % 2)]) for i, text in enumerate(texts)]
        for split in ("train", "dev"):
            (folder / name / f"{split}.csv").write_text("\n".join(lines))
    found = {name: folder / name for name in (*kinds, "cola", "mrpc")}
    found |= {"texts": folder / "texts.txt", "small": folder / "small"}
    assert run(["compress", str(found["bert"]), "--rank", "2", "--out", str(found["small"])]) == 0
    return found


def flat(tree: dict) -> dict:
    """{path: value} of a recipe."""
    return {path: value for path, (_, value) in from_mapping(tree["verb"], tree, "x").items()}


@pytest.mark.parametrize("name", RUNS)
def test_every_figure_that_is_known_is_in_a_real_report(places, tmp_path, capsys, name):
    words, absent = RUNS[name]
    capsys.readouterr()
    assert run([*words.format(**places, out=tmp_path / "out").split(), "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    made, recipe = Report.read(report), flat(report["recipe"])
    known, there = checks.figures(made.verb, recipe), dict(leaves(report))
    for path in known:
        if not ("#" in path or "*" in path or path.startswith("seconds.")):
            assert path in there or path in absent.split(), path
    named = made.named()
    for short, path in checks.shortcuts(made.verb, recipe).items():
        assert (
            named.get(short) == path
            or path not in there
            or path in ("quality.after", "score.after")
        )
    open_ = r"recipe\.|schema_version|decomposition|shape|attention\.layers\.\d+\.attention| "
    for path, value in there.items():  # and the other way round, but for settings of what is made
        if isinstance(value, float) or (type(value) is int and not re.search(open_, path)):
            assert re.search(open_, path) or checks.find(path, made.verb, known, {}) == path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("compress m --rank 2 --fail-if lss>3", "did you mean loss?"),
        ("compress m --rank 2 --fail-if x>3", "it has loss, feature_error, perplexity"),
        ("compress m --rank 2 --fail-if recovery.recovered<1", "no figure 'recovery.recovered'"),
        ("compress m --rank 2 --dry-run --fail-if loss>3", "no figure 'loss'"),
        ("compress m --attention dimensionwise --fail-if keep<1", "no figure 'keep'"),
        ("compress m --rank 2 --calibration none --fail-if calibration.tokens<1", "no figure"),
        ("compress m --rank 2 --fail-if before>1", "before is not one figure of the report: say"),
        ("merge m --fail-if loss>3", "no figure 'loss'"),
        ("merge m --fail-if verb>3", "no figure 'verb'"),
        ("overparam m --growth 2 --fail-if keep>1", "no figure 'keep'"),
        ("finetune m --task cola --fail-if matthew<1", "did you mean matthews?"),
        ("finetune m --task cola --fail-if parity.relative>1", "no figure 'parity.relative'"),
        ("finetune m --task cola --seeds 2 --fail-if score<1", "no figure 'score'"),
        ("profile m --fail-if models.1.weight_bytes>3", "no figure 'models.1.weight_bytes'"),
        ("profile m --fail-if models.0.runs.1.flops>3", "no figure"),
        ("profile --attention softmax --fail-if models.0.weight_bytes>3", "no figure"),
        ("evaluate m --task cola --fail-if loss>3", "no figure 'loss'"),
        ("evaluate m --task mlm --fail-if baseline.difference>3", "no figure"),
    ],
)
@pytest.mark.parametrize("way", ["--fail-if {}", "--set output.fail_if={}"])
def test_an_unknown_figure_is_refused_before_anything_is_read(
    capsys, monkeypatch, words, says, way
):
    monkeypatch.setattr(Folder, "of", lambda *_, **__: pytest.fail("was resolved"))
    words, test = words.split(" --fail-if ")
    assert run([*words.split(), *way.format(test).split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err


def test_a_pipeline_refuses_it_before_its_first_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Folder, "of", lambda *_, **__: pytest.fail("was resolved"))
    first = {"name": "a", "verb": "overparam", "model": "m", "overparam": {"growth": 2}}
    second = {"name": "b", "verb": "merge", "output": {"fail_if": "loss>3"}}
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": [first, second]}))
    assert run(["run", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "the report of tlm merge has no figure 'loss'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("compress {bare} --rank 2 --fail-if loss>3", "has no tokenizer, so that loss"),
        ("compress {bare} --rank 2 --fail-if calibration.tokens>3", "has no tokenizer"),
        ("merge {small} --fail-if parity.rounding>1", "where nothing is rounded"),
        ("finetune {bert} --task cola --data {cola} --steps 1 --fail-if scores.before.score<0",
         "has no scores before"),
    ],
)  # fmt: skip
def test_a_figure_that_this_model_cannot_have_is_refused_before_the_work(
    places, tmp_path, capsys, monkeypatch, words, says
):
    pico("bert", "lm").save_pretrained(tmp_path / "bare")
    monkeypatch.chdir(tmp_path)
    assert run(words.format(bare=tmp_path / "bare", **places).split()) == 2
    assert says in capsys.readouterr().err.split("tlm: ")[-1]
    assert [each.name for each in tmp_path.iterdir()] == ["bare"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_names_its_stages(verb):
    assert set(SECONDS) == set(VERBS)
    assert f"seconds.{SECONDS[verb].split()[0]}" in checks.figures(verb, {})


@pytest.mark.parametrize("key", ["bytes.after", "bytes", "models.0.bytes", "after.bytes"])
@pytest.mark.parametrize("verb", ["compress", "profile"])
def test_a_figure_that_has_another_name_now_is_told(verb, key):
    with pytest.raises(Usage, match=r"instead of bytes say file_bytes \(.*weight_bytes \("):
        checks.check_figure(key, verb, {"compression.rank": 8})


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_names_figures(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "200")
    assert run([verb, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert checks.helped(verb)[0] in said.split("figures:")[1]
    assert HELPED.get(verb, ", ".join(checks.helped(verb))) == ", ".join(checks.helped(verb))


def test_short_names_are_those_of_the_model_itself(places, capsys):
    words = ["evaluate", str(places["bert"]), "--task", "mlm", "--baseline", str(places["small"])]
    assert run([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    own = report["models"][0]["perplexity"]
    assert own != report["baseline"]["perplexity"]
    assert run([*words, "--fail-if", f"perplexity=={own!r}"]) == 3
