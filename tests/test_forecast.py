"""The forecast: a dry run reads no weights and tells what is certain, the run keeps within it, and
seconds follow from counted work and rates. No test reads a clock: rates and clocks are made up."""

import json
from dataclasses import fields, replace
from math import inf

import pytest
import torch
from conftest import pico
from front_door import TEXTS, saved, told

from tlmtool.commands import forecasting as command
from tlmtool.compression import forecasting
from tlmtool.compression.compress import check
from tlmtool.compression.forecasting import Room, Texts, forecast
from tlmtool.measuring.costing import Body, Text
from tlmtool.measuring.counting import OTHER, SCORES, forward_flops
from tlmtool.measuring.machine import Probed, Rates, rates
from tlmtool.models.surgery import sites
from tlmtool.recipe.compression import Compression

NAMES = [each.name for each in fields(Rates)]
FAST = Rates(**dict.fromkeys(NAMES, 1e9))
BOTH = "attention,ffn"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Checkpoints of several kinds without a number in their weights, and a sound one."""
    folder = tmp_path_factory.mktemp("room")
    kinds = {"encoder": ("bert", "lm"), "causal": ("llama", "lm"), "seq2seq": ("t5", "lm")}
    for name, (family, head) in kinds.items():
        saved(folder / name, family, head)
        file = folder / name / "model.safetensors"
        held = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(held[:8], "little")
        held[start:] = b"\xff" * (len(held) - start)
        file.write_bytes(held)
    saved(folder / "sound", head="lm")
    (folder / "text.txt").write_text("\n".join(TEXTS * 4))
    return folder


@pytest.fixture
def fast(monkeypatch):
    """A machine whose rates are known."""
    monkeypatch.setattr(command, "rates", lambda probed: FAST)


KERNEL = ("--attention", "dimensionwise", "--keep", 0.9, "--sites", "ffn")


BUDGETS = [("--rank", 4), ("--keep", 0.6), ("--energy", 0.9)]
CASES = [(model, each) for model in ("encoder", "causal", "seq2seq") for each in BUDGETS]


@pytest.mark.parametrize(("model", "budget"), [*CASES, ("encoder", KERNEL), ("causal", KERNEL)])
def test_a_dry_run_reads_no_weights(room, tmp_path, fast, capsys, model, budget):
    text = ("--calibration", room / "text.txt", "--out", tmp_path / "out")
    report = told(capsys, "compress", room / model, *budget, *text, "--dry-run")
    assert report["predicted"] and "sha256" not in report["model"] and not [*tmp_path.iterdir()]
    if budget is not KERNEL:
        known = report["forecast"]
        assert known["seconds"] == pytest.approx(
            sum(s["seconds"] for s in known["stages"].values())
        )
        assert known["memory_bytes"] > report["peak_rss_bytes"] / 2
        assert "actual_seconds" not in known and "factorizing" in known["stages"]
    assert ("range" in report) == (budget[0] != "--rank")
    assert ("parameters" in report) == (budget[0] != "--energy")


@pytest.mark.parametrize(
    "flags",
    [
        "--keep 0.5",
        "--keep 0.5 --method tucker",
        "--keep 0.7 --allocate uniform --method svd",
        "--keep 0.4 --sites all",
        "--energy 0.8 --method svd",
    ],
)
def test_a_run_keeps_within_the_ranges_of_its_dry_run(room, tmp_path, fast, capsys, flags):
    given = ["compress", room / "sound", "--sites", BOTH, *flags.split()]
    given += ["--calibration", room / "text.txt", "--out", tmp_path / "out"]
    dry, real = (told(capsys, *given, *more) for more in (["--dry-run"], []))
    span = dry["range"]["parameters"]
    assert span.get("least", 0) <= real["parameters"]["after"] <= span["most"]
    if "--energy" in flags:
        for name in ("flops", "weight_bytes"):
            assert dry["range"][name]["least"] <= real[name]["after"] <= dry["range"][name]["most"]
    else:
        assert dry["parameters"]["after"] <= span["most"]
    ranges = {each["site"]: each for each in dry["range"]["sites"]}
    assert {each["site"] for each in real["sites"] + real["left_dense"]} == {*ranges}
    for each in real["sites"]:
        found = ranges[each["site"]]
        assert found["least"] <= each["parameters"] <= found["most"]
        if each["decomposition"]["name"] == found["decomposition"]:
            rank = each["decomposition"]["rank"]
            assert found["least_rank"] <= rank <= found.get("most_rank", inf)
    assert all("most_rank" not in ranges[each["site"]] for each in real["left_dense"])


def test_the_table_marks_all_as_predicted(room, fast, capsys):
    from tlmtool.cli import run

    for budget in (["--keep", "0.5"], ["--energy", "0.9"], ["--rank", "2"]):
        assert run(["compress", str(room / "encoder"), *budget, "--dry-run", "-q"]) == 0
        out = capsys.readouterr().out
        titles = [
            x for x in out.splitlines() if x.startswith(("cost", "what the", "seconds", "par"))
        ]
        assert all("(predicted)" in x for x in titles if "  " not in x) and "seconds (" in out
        assert ("at most" in out, " to " in out) == {
            "--keep": (True, False),
            "--energy": (True, True),
            "--rank": (False, False),
        }[budget[0]]


@pytest.mark.parametrize("method", ["svd", "auto"])
def test_a_run_tells_its_forecast_and_holds_it_beside_its_time(
    room, tmp_path, fast, capsys, method
):
    from tlmtool.cli import run

    given = ["compress", str(room / "sound"), "--keep", "0.5", "--method", method]
    out = tmp_path / "out"
    assert run([*given, "--calibration", str(room / "text.txt"), "--out", str(out)]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("forecast: a few seconds and ") and "memory" in first
    assert others[0] == "loading, 0 %, a few seconds left"
    found = json.loads((out / "report.json").read_text())["forecast"]
    assert found["actual_seconds"] > 0
    stages = found["stages"]
    assert sum(each["actual"] for each in stages.values()) <= found["actual_seconds"] + 1e-6
    assert all(each["seconds"] > 0 for each in stages.values()), "a stage that nothing forecasts"
    assert "forecast" in (out / "README.md").read_text()


# ---- from work to seconds

ONLY = {name: replace(Rates(**dict.fromkeys(NAMES, inf)), **{name: 1.0}) for name in NAMES}


def stages(rate: Rates, texts: Texts, bits=None, **wanted) -> dict[str, float]:
    model = pico("llama", "lm").to("meta")
    asked = Compression(sites=("attention", "ffn"), **wanted)
    chosen = check(model, asked, bool(texts.calibration.tokens)).roles
    parts = forward_flops(model, 16, 1, sites(model))["by_part"]
    body = Body.of(model, chosen, parts, 16, texts.calibration.length)
    return dict(forecast(model, body, chosen, asked, texts, 0.5, rate, Room(), bits).stages)


def test_seconds_are_work_divided_by_rates():
    model, length, tokens = pico("llama", "lm"), 32, 1000
    texts = Texts(calibration=Text(tokens, 2, length), held=Text(50, 1))
    parts = forward_flops(model, length, 1, sites(model))["by_part"]
    linears = (sum(parts.values()) - parts[SCORES] - parts[OTHER]) / length
    found = stages(ONLY["forward"], texts, keep=0.5, method="svd")
    assert found["measuring inputs"] == pytest.approx(forecasting.INPUTS.dense * linears * tokens)
    assert found["measuring sensitivity"] == pytest.approx(2 * linears * tokens)
    fit = forecasting.LOCKSTEP
    assert found["factorizing"] == pytest.approx((fit.dense + fit.reduced / 2) * linears * tokens)
    scores = stages(ONLY["attention"], texts, keep=0.5, method="svd")
    assert scores["measuring inputs"] == pytest.approx(parts[SCORES] / length * tokens)
    head = found["measuring before"] - found["measuring after"]
    assert head == pytest.approx(linears / 2 * 50)
    assert stages(ONLY["exact"], Texts(), rank=4).keys() == {"factorizing"}
    assert "measuring sensitivity" not in stages(FAST, texts, rank=4)


def test_a_machine_of_half_the_speed_takes_twice_as_long():
    texts = Texts(Text(1000, 4), Text(100, 1), Text(9, 1), Text(70, 5), samples=True)
    slow = Rates(**{name: getattr(FAST, name) / 2 for name in NAMES})
    for wanted in ({"keep": 0.5}, {"energy": 0.5}, {"rank": 4}):
        fast, late = stages(FAST, texts, **wanted), stages(slow, texts, **wanted)
        assert fast.keys() == late.keys() and len(fast) >= 5
        assert [2 * x for x in fast.values()] == pytest.approx([*late.values()])


def test_narrower_mlps_are_foreseen_as_such():
    """No spectrum and no factors of a narrower model; under auto rankings beside the spectra; in
    few bits nothing to choose from."""
    texts = Texts(Text(1000, 4))
    svd, auto, narrow = (
        stages(FAST, texts, keep=0.5, method=name) for name in ("svd", "auto", "narrow")
    )
    assert narrow["planning"] + svd["planning"] == pytest.approx(auto["planning"])
    assert 0 < narrow["planning"] < svd["planning"]
    assert narrow["factorizing"] < svd["factorizing"]
    assert "choosing decompositions" in auto and "choosing decompositions" not in narrow
    assert "choosing decompositions" not in stages(FAST, texts, bits=8, keep=0.5)
    once = stages(FAST, texts, keep=0.5, method="auto", fit="once")
    assert once["planning"] < auto["planning"]


def test_a_dry_run_says_that_mlps_may_get_narrower(room, fast, capsys):
    from tlmtool.cli import run

    def told(*more) -> str:
        words = ["compress", str(room / "causal"), "--keep", "0.6", "--sites", BOTH, "--dry-run"]
        assert run([*words, "-q", *more]) == 0
        return " ".join(capsys.readouterr().out.split())

    says = "auto may make any of the 2 MLPs narrower instead"
    assert says in told() and says not in told("--method", "svd")
    assert says not in told("--fit", "once") and says not in told("--calibration", "none")
    assert "ranks are those of narrow: neurons that an MLP keeps" in told("--method", "narrow")


def test_more_text_takes_longer_but_the_plan_reads_no_more_than_it_needs():
    few, many = (Texts(Text(n * forecasting.PLAN, n * 8)) for n in (1, 4))
    few, many = stages(FAST, few, keep=0.5), stages(FAST, many, keep=0.5)
    assert few["measuring inputs"] == many["measuring inputs"]
    assert many["factorizing"] > few["factorizing"]


def test_rates_are_what_is_computed_in_the_time_that_it_takes():
    seconds = iter(range(10**6))
    probed = Probed({(32, 64): 3, (64, 32): 1}, (4, 8), 16, 48)
    found = rates(probed, lambda: float(next(seconds)))  # everything takes one second
    assert found.forward == 2 * 2 * 48 * 32 * 64
    assert found.attention == 4 * 3 * 4 * 16**2 * 8
    assert (found.exact, found.eigen) == (2 * 32**3, 32**3)
    assert found.products == 2 * 48 * 64**2
    assert torch.tensor([getattr(found, name) for name in NAMES]).gt(0).all()
