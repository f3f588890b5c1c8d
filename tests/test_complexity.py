"""`tlm profile --attention`: kernels alone as N grows; fits, counts and refusals."""

import json
from math import sqrt

import pytest
import torch
from conftest import pico
from torch.utils.flop_counter import FlopCounterMode

from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.cli import run
from tlmtool.failure import Usage
from tlmtool.measuring import complexity as measuring
from tlmtool.measuring.complexity import Case, Softmax, complexity, exponent
from tlmtool.measuring.passes import one_pass, peak
from tlmtool.report.report import Report
from tlmtool.report.views import views

SMALL = ("--heads", 2, "--head-width", 4, "--runs", 1)
KERNELS = {"softmax": Softmax(), "dimensionwise": DimensionWise(), "multilinear": MultiLinear()}
CASE = Case(heads=2, width=4, features=8)


def tlm(*args):
    return run(["profile", *map(str, args)])


def told(capsys, *args):
    """The one JSON object of a quiet run."""
    capsys.readouterr()
    assert tlm(*args, "--json", "-q") == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


@pytest.mark.parametrize("p", [0, 0.5, 1, 3])
def test_the_exponent_of_a_power_law_is_found_at_any_scale(p):
    ns = [3, 17, 128, 8192]
    assert exponent(ns, [7e5 * n**p for n in ns]) == pytest.approx(p, abs=1e-12)
    assert exponent(ns, [n**p * f for n, f in zip(ns, (1, 2, 2, 1), strict=True)]) < p + 0.2


def test_without_a_fit_there_is_no_exponent():
    assert exponent([8], [1.0]) is None and exponent([8, 8], [1.0, 2.0]) is None
    assert exponent([8, 16], [0, 1.0]) is None and exponent([8, 16], [None, None]) is None


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_attention_is_what_its_formula_says(causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 7, 4, dtype=torch.float64)
    scores = q @ k.mT / sqrt(4)
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    wanted = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(Softmax().apply(q, k, v, {}, causal=causal), wanted)
    real = torch.ones(2, 7, dtype=torch.bool)
    real[0, 4:] = False
    alone = Softmax().apply(q[:1, :, :4], k[:1, :, :4], v[:1, :, :4], {})
    assert torch.allclose(Softmax().apply(q, k, v, {}, real)[0, :4], alone[0])
    assert Softmax().flops(2, 2, 7, 4, 8, causal) == 2 * 2 * (2 * 2 * 49 * 4)
    case = Case(2, 4, 8, 2, causal, backward=True)
    assert case.flops(Softmax(), 7) == 7 * (2 * 2 * 2 * 49 * 4)


@pytest.mark.parametrize("kernel", [*KERNELS.values(), DimensionWise(mixer=3), MultiLinear("conv")])
@pytest.mark.parametrize("causal", [False, True])
def test_flops_are_the_kernels_own_and_those_of_both_passes_are_counted(kernel, causal):
    heads, width, n = 2, 4, 16
    once = CASE._replace(causal=causal).flops(kernel, n)
    assert once == kernel.flops(1, heads, n, width, 8, causal)
    both = CASE._replace(causal=causal, backward=True)
    assert both.flops(kernel, n) > 2 * once
    if not isinstance(kernel, Softmax) and not getattr(kernel, "mixer", 0):
        with FlopCounterMode(display=False) as counter:  # with numbers, not on meta
            both.work(kernel, n)()
        assert counter.get_total_flops() == both.flops(kernel, n)


def test_a_kernel_with_blocks_of_its_own_gets_them():
    kernel = MultiLinear(blocks=3, rank=2)
    assert CASE.flops(kernel, 16) == kernel.flops(1, 3, 16, 2, 8, False)
    assert CASE.work(kernel, 16)().shape == (1, 16, 8)


def test_peak_is_what_is_held_at_once():
    def work():
        x = torch.ones(1000, dtype=torch.float64)
        y = x + 1  # two of 8000 bytes
        del x
        return (y + 1)[:1].clone()  # two again

    assert 16000 <= peak(work) < 16000 + 4096
    assert peak(work, "meta") is None
    with_graph = one_pass(lambda: (x * x).sum(), [x := torch.ones(1000, requires_grad=True)], True)
    assert with_graph()[0].tolist() == [2.0] * 1000 and peak(with_graph) >= 4000


def test_each_kernel_has_a_run_at_each_length_and_its_exponents():
    seen, lines = [], []
    found = complexity(KERNELS, [32, 8, 16, 8], CASE, 2, lambda *at: seen.append(at), lines.append)
    assert list(found["kernels"]) == list(KERNELS)
    for name, each in found["kernels"].items():
        assert [r["seq_len"] for r in each["runs"]] == [8, 16, 32]
        for r in each["runs"]:
            assert r["flops"] == KERNELS[name].flops(1, 2, r["seq_len"], 4, 8, False)
            assert 0 < r["latency_ms"]["min"] <= r["latency_ms"]["median"]
            assert r["peak_memory_bytes"] >= 4 * r["seq_len"] * 8  # of its result alone
        assert set(each["exponents"]) == {"flops", "time", "processor_time", "memory"}
    of = {name: each["exponents"] for name, each in found["kernels"].items()}
    assert of["softmax"]["flops"] == pytest.approx(2)
    assert of["dimensionwise"]["flops"] == pytest.approx(1)
    assert seen[-1][0] == seen[-1][1] == len(seen) and len(lines) == 3
    assert lines[0].startswith("N = 8: softmax ")
    assert (found["threads"], found["dtype"]) == (torch.get_num_threads(), "float32")


def test_the_report_has_a_table_of_each_quantity(capsys):
    args = ("--attention", "softmax,dimensionwise", "--seq-len", "8,16", *SMALL)
    report = told(capsys, *args)
    shown = views(Report.read(report))
    assert [view.header for view in shown] == [["", "softmax", "dimensionwise"]] * 3
    for view in shown:
        assert [row[0] for row in view.rows][:3] == ["N = 8", "N = 16", "exponent in N"]
        assert all(all(row) for row in view.rows)
    assert [view.rows[-1][0] for view in shown][1] == "  of processor time"
    assert shown[0].rows[-1][1:] == ["2.00", "1.00"] and "counted" in shown[0].title
    assert tlm(*args) == 0
    out, err = capsys.readouterr()
    assert "forward, both ways, batch 1, 2 heads of width 4, float32, cpu with 1 thread" in out
    assert "N = 16: softmax " in err and "USDT" not in err
    one = told(capsys, "--attention", "softmax", *SMALL)  # one length
    assert [row[0] for view in views(Report.read(one)) for row in view.rows] == ["N = 128"] * 3
    assert one["complexity"]["kernels"]["softmax"]["exponents"]["time"] is None


def test_a_processor_that_others_hold_is_told():
    found = complexity({"softmax": Softmax()}, [8, 16], CASE, 1)
    (first, second), called = found["kernels"]["softmax"]["runs"], measuring.waiting
    first["latency_ms"] |= {"median": 2.0, "cpu": 2.0}
    second["latency_ms"] |= {"median": 9.0, "cpu": 8.0}
    assert called(found) == []
    second["latency_ms"] |= {"cpu": 3.0}
    (sentence,) = called(found)
    assert "softmax at N = 16 took 9 ms and worked 3 ms of them" in sentence
    assert called(found | {"device": "NVIDIA"}) == []


def test_a_figure_of_it_can_be_checked(capsys):
    args = ("--attention", "softmax", "--seq-len", "8,16", *SMALL, "-q", "--fail-if")
    assert tlm(*args, "complexity.kernels.softmax.exponents.flops>1.9") == 3
    assert tlm(*args, "complexity.kernels.softmax.exponents.flops>2.1") == 0


def test_choices_reach_the_kernels_that_have_them(capsys):
    flags = ("--f", "scale", "--w-o", "full", "--attention-length", 16, "--causal", "--backward")
    names = "softmax,multilinear,dimensionwise"
    found = told(capsys, "--attention", names, "--seq-len", "8,16", *flags, *SMALL)["complexity"]
    used = {name: each["attention"] for name, each in found["kernels"].items()}
    assert used["softmax"]["by"] == "scaled_dot_product_attention"
    assert used["dimensionwise"]["f"] == "scale"
    assert (used["multilinear"]["w_o"], used["multilinear"]["length"]) == ("full", 16)
    assert found["causal"] and found["backward"]


def test_a_model_gives_the_shape(tmp_path, capsys):
    pico("gpt2").save_pretrained(tmp_path / "gpt2")
    found = told(capsys, tmp_path / "gpt2", "--attention", "multilinear", "--runs", 1)
    shape = {key: found["complexity"][key] for key in ("heads", "width", "features", "causal")}
    assert shape == {"heads": 4, "width": 8, "features": 32, "causal": True}
    assert found["model"] == {"id": str(tmp_path / "gpt2")}
    assert tlm(tmp_path / "gpt2", "--attention", "dimensionwise", "--f", "softmax") == 2
    assert "sees later tokens: it cannot be causal" in capsys.readouterr().err
    pico("t5").save_pretrained(tmp_path / "t5")
    assert tlm(tmp_path / "t5", "--attention", "dimensionwise") == 2
    assert "a t5 keeps softmax attention" in capsys.readouterr().err
    assert tlm(tmp_path / "none", "--attention", "dimensionwise") == 4


# ---- refusals


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            "",
            "profile needs a MODEL (a folder, a GGUF file, a Hub id, or minilm), or --attention",
        ),
        ("--attention softmx", "got 'softmx'; did you mean softmax?"),
        ("--attention dimension-wise", "did you mean dimensionwise?"),
        ("--attention softmax,", "must be softmax, dimensionwise"),
        ("m --causal", "--causal is for kernels alone"),
        ("m --plot a.png", "--plot is for kernels alone"),
        ("m --head-width 8", "--head-width is for kernels alone"),
        ("m --w-o conv", "--w-o is for kernels alone"),
        ("m --attention softmax --heads 8", "--heads is that of MODEL"),
        ("--attention softmax --against m", "--attention measures kernels alone"),
        ("--attention softmax --heads 0", "--heads must be an integer of at least 1, got 0"),
        ("--attention softmax --plot out/", "--plot must be a file that ends in .png"),
        ("--attention softmax --plot a.doc", "--plot must be a file that ends in .png"),
        ("--attention softmax --plot .png", "--plot must be a file that ends in .png"),
        ("--attention softmax --plot {}/folder.png", "folder.png is a folder"),
        ("--attention softmax --plot {}/file/a.png", "file is no folder that can be written to"),
        (
            "--attention softmax --f scale",
            "--f is a choice of dimensionwise, which --attention softmax does not name",
        ),
        (
            "--attention softmax,dimensionwise --w-o conv",
            "--w-o is a choice of multilinear, which",
        ),
        ("--attention dimensionwise --f softmax --causal", "sees later tokens"),
        ("--attention dimensionwise --attention-rank 65", "rank 65 is above 64"),
        ("--attention multilinear --w-o full", "full is built for one length"),
        (
            "--attention multilinear --w-o full --attention-length 64 --seq-len 32,128",
            "multilinear: 128 tokens are more than length 64",
        ),
        ("--attention softmax --device cuda:99", "device cuda:99 cannot be used here"),
    ],
)
def test_wrong_usage_is_a_sentence_before_any_work(tmp_path, capsys, monkeypatch, args, says):
    monkeypatch.setattr(measuring, "peak", lambda *_: pytest.fail("was measured"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    assert tlm(*args.format(tmp_path).split(), "-q") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tlm: ") and err.count("\n") == 1
    assert says in err


def test_a_longer_text_is_refused_from_python_too():
    with pytest.raises(Usage, match="9 tokens are more than length 8"):
        complexity({"multilinear": MultiLinear("full", length=8)}, [9], CASE)
