"""tlm repair: the adapter is the best of its rank, repairs, and loads in peft without tlm."""

import json
import shutil

import compressions
import pytest
import refusals
import torch
from conftest import WORDS, apart, output, pico, word_tokenizer
from peft import AutoPeftModelForCausalLM, PeftModel

from tlmtool.cli import run
from tlmtool.compression.calibration import prepared
from tlmtool.compression.repairing import differing, repaired
from tlmtool.compression.statistics import Statistics
from tlmtool.decompositions.svd import spectrum
from tlmtool.models.checkpoint import load
from tlmtool.models.factorized import dense_weight
from tlmtool.recipe.stages import stages_of

refused, dense = refusals.refused, refusals.dense
texts = compressions.texts  # its fixture
SHRINK = {
    "int4": ("quantize", "--bits", "4"),
    "svd": ("compress", "--rank", "4", "--method", "svd", "--sites", "attention,ffn"),
    "btd": ("compress", "--rank", "2", "--method", "btd", "--sites", "attention"),
}


@pytest.fixture(scope="module")
def room(tmp_path_factory, texts):
    """Pico models by family and head, a text, and what a command made of a model."""
    folder = tmp_path_factory.mktemp("repair")
    draw = torch.Generator().manual_seed(0)
    words = [[WORDS[i] for i in torch.randint(len(WORDS), (8,), generator=draw)] for _ in range(99)]
    (folder / "text.txt").write_text("\n".join(map(" ".join, words)))

    def made(family: str, how: str = "", head: str = "lm"):
        first = folder / f"{family}-{head}"
        if not first.exists():
            pico(family, head).save_pretrained(first)
            word_tokenizer().save_pretrained(first)
        if how and not (out := folder / f"{first.name}-{how}").exists():
            verb, *more = SHRINK[how]
            more += [] if verb == "quantize" else ["--calibration", str(folder / "text.txt")]
            assert run([verb, str(first), *more, "--out", str(out), "-q", "--device", "cpu"]) == 0
        return folder / f"{first.name}-{how}" if how else first

    return made


def repair(model, original, out, *more) -> dict:
    """The report of a repair."""
    text = original.parent / "text.txt"
    words = ["--against", original, "--calibration", text, "--max-length", 12, "--out", out, *more]
    assert run([*map(str, ["repair", model, *words, "-q", "--device", "cpu"])]) == 0
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("fit", ["once", "sequential"])
@pytest.mark.parametrize(
    ("family", "how", "head"),
    [
        ("llama", "int4", "lm"),
        ("gpt2", "int4", "lm"),
        ("bert", "svd", "base"),
        ("t5", "int4", "lm"),
    ],
)
def test_it_brings_a_model_nearer_and_tells_what_peft_then_computes(
    room, tmp_path, family, how, head, fit
):
    original, model = room(family, "", head), room(family, how, head)
    found = repair(model, original, tmp_path / "a", "--rank", 16, "--fit", fit)["repair"]
    size = (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    assert found["adapter_bytes"] == size and found["won"] == found["before"] - found["after"]
    assert found["won_per_mb"] == pytest.approx(1e6 * found["won"] / size)
    merged = model
    if how == "svd":  # a plain checkpoint, as peft knows it
        merged = tmp_path / "merged"
        assert run(["merge", str(model), "--out", str(merged), "-q"]) == 0
    with_it = PeftModel.from_pretrained(load(merged), tmp_path / "a")
    assert apart(output(load(original)), output(with_it)) < apart(
        output(load(original)), output(load(merged))
    )


def test_peft_loads_it_by_its_base_model(room, tmp_path):
    model = room("llama", "int4")
    repair(model, room("llama"), tmp_path / "a", "--rank", 4)
    whole = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a")
    named = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert named["task_type"] == "CAUSAL_LM" and "q_proj" in named["target_modules"]
    again = PeftModel.from_pretrained(load(model), tmp_path / "a")
    assert torch.equal(output(whole), output(again))
    assert not torch.equal(output(whole), output(load(model)))


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_at_full_rank_it_gives_the_original_back(room, family, sequential):
    """Up to the embeddings, which are in float16 there and which an adapter leaves."""
    model, original = load(room(family, "int4")), load(room(family))
    batches = prepared(model, word_tokenizer(), [" ".join(WORDS)] * 3, 12, 64)
    roles = differing(model, original)
    adapter = repaired(model, original, roles, batches, 64, torch.float32, sequential)
    far = apart(output(model), output(original))
    with adapter.attached(model):
        assert apart(output(model), output(original)) < far / 50
    assert apart(output(model), output(original)) == far


def test_no_adapter_of_its_rank_is_nearer_in_the_covariance_of_the_inputs(room):
    model, original = load(room("llama", "int4")), load(room("llama"))
    batches = prepared(model, word_tokenizer(), [" ".join(WORDS)] * 3, 12, 64)
    roles = differing(model, original)
    adapter = repaired(model, original, roles, batches, 3, torch.float64, sequential=False)
    seen = 0
    for group, moments in Statistics(model, roles, batches).moments(""):
        for site in group:
            c = moments.metric(False)
            now, own = (dense_weight(m.base_model.get_submodule(site)) for m in (model, original))
            lost = (own - now).double()
            a, b = adapter.pairs[site]
            left = lost - b.double() @ a.double()
            least = spectrum(lost, c)[3:].sum()
            assert float(((left @ c) * left).sum()) == pytest.approx(float(least), rel=1e-4)
            seen += 1
    assert seen == len(roles) == 14


def test_an_adapter_of_factors_lies_on_the_layers_that_they_stand_for(room, tmp_path):
    model, original = room("bert", "btd"), room("bert")
    found = repair(model, original, tmp_path / "a", "--rank", 4)
    assert found["repair"]["sites"] == 8
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert all("attention" in each for each in targets)  # `dense` alone names other layers too
    card = (tmp_path / "a" / "README.md").read_text()
    assert "library_name: peft" in card and "import tlmtool" in card


def test_without_text_the_weights_alone_decide(room, tmp_path):
    model, original = room("llama", "int4"), room("llama")
    found = repair(model, original, tmp_path / "a", "--calibration", "none")["repair"]
    assert abs(found["after"] - found["original"]) < abs(found["before"] - found["original"]) / 10


def test_what_cannot_be_repaired_is_refused(room, refused, tmp_path, capsys):
    original, model = room("llama"), room("llama", "int4")
    capsys.readouterr()  # what quantize printed
    text = ("--calibration", original.parent / "text.txt")
    assert "repair needs --against" in refused(2, model, verb="repair")
    same = refused(2, original, "--against", original, *text, verb="repair")
    assert "nothing to repair" in same
    pico("llama", "lm", intermediate_size=40).save_pretrained(tmp_path / "thin")
    word_tokenizer().save_pretrained(tmp_path / "thin")
    thin = refused(2, tmp_path / "thin", "--against", original, *text, verb="repair")
    assert "(40, 32) in the model and (48, 32) in the original" in thin
    other = refused(2, model, "--against", room("bert"), *text, verb="repair")
    assert "the original has none of that name" in other


def test_only_what_tlm_wrote_is_replaced(room, capsys, tmp_path):
    model, original = room("llama", "int4"), room("llama")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    words = ["repair", str(model), "--against", str(original), "--out", str(tmp_path / "a"), "-q"]
    assert run(words) == 2 and "not empty" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 2 and "no export" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "a")
    repair(model, original, tmp_path / "a")
    repair(model, original, tmp_path / "a", "--overwrite")


def test_the_stage_after_a_repair_reads_the_model_before_it(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "stages:\n- {name: small, verb: quantize, model: m, quantization: {bits: 4}}\n"
        "- {name: better, verb: repair, repair: {against: m}}\n"
        "- {name: whole, verb: merge}\n"
    )
    stages = stages_of(tmp_path / "p.yaml", tmp_path / "o")
    assert [stage.recipe.model for stage in stages] == ["m", *[str(tmp_path / "o/small")] * 2]
