"""peft: LoRA sits on factorized sites, trains, is saved, re-loads and merges where it can."""

import subprocess
import sys

import pytest
import torch
from conftest import auto, inputs, output, pico
from factored import assert_same, compressed, loaded, relative
from test_laws import ALONE
from test_narrow import narrower
from torch import nn
from transformers import AutoModelForCausalLM

from tlmtool.decompositions.svd import SVD
from tlmtool.models.modeling import adopt, merge
from tlmtool.models.surgery import factorize, plan_of

peft = pytest.importorskip("peft")
MERGING = ("svd",)  # and narrower MLPs


def lora(model, **more):
    return peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "task_type": "CAUSAL_LM", **more}))


def at(wrapped) -> set[str]:
    """The paths at which LoRA sits, from the model itself."""
    start = "base_model.model."
    names = (n.removeprefix(start) for n, _ in wrapped.named_parameters())
    return {n.partition(".lora_A.")[0] for n in names if ".lora_A." in n}


def step(wrapped) -> torch.Tensor:
    """The outputs after one step of every trainable parameter along its gradient, twice: B starts
    at zero, so A moves with the second."""
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(
            **inputs(wrapped.get_base_model()), labels=inputs(wrapped)["input_ids"]
        ).loss.backward()
        with torch.no_grad():
            for parameter in (p for p in wrapped.parameters() if p.requires_grad):
                assert parameter.grad is not None
                parameter -= 0.5 * parameter.grad / (parameter.grad.norm() + 1e-6)
    return output(wrapped.eval())


WAYS = {"named": {"target_modules": ["q_proj", "v_proj"]}, "default": {}, "all": {}}
WAYS["all"] = {"target_modules": "all-linear"}


@pytest.mark.parametrize("name", ["svd", "btd"])
@pytest.mark.parametrize("way", WAYS)
def test_it_sits_where_it_sits_on_the_dense_model(name, way):
    model = compressed("llama", "lm", name)
    before = output(model)
    wrapped = lora(model, **WAYS[way])
    dense = lora(pico("llama", "lm"), **WAYS[way])
    assert at(wrapped) == at(dense) and len(at(wrapped)) in (4, 14)
    trained = [
        {n: p.shape for n, p in m.named_parameters() if p.requires_grad} for m in (wrapped, dense)
    ]
    assert trained[0] == trained[1]
    assert torch.equal(output(wrapped), before)  # B starts at zero


@pytest.mark.parametrize("name", ALONE)
def test_it_trains_is_saved_and_re_loads(name, tmp_path):
    model = compressed("llama", "lm", name)
    model.save_pretrained(tmp_path / "base")
    before, wrapped = output(model), lora(model, target_modules="all-linear")
    tuned = step(wrapped)
    assert relative(tuned, before) > 1e-2
    wrapped.base_model.model.name_or_path = str(tmp_path / "base")
    wrapped.save_pretrained(tmp_path / "adapter")
    plain = loaded(AutoModelForCausalLM, tmp_path / "base").eval()
    assert torch.equal(output(peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")), tuned)
    again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(output(again.eval()), tuned)
    with wrapped.disable_adapter():
        assert torch.equal(output(wrapped), before)
    assert torch.equal(output(wrapped.unload()), before)


@pytest.mark.parametrize("name", ALONE)
def test_it_merges_into_the_factors_or_says_why_not(name, tmp_path):
    wrapped = lora(compressed("llama", "lm", name), target_modules="all-linear")
    tuned, plan = step(wrapped), plan_of(compressed("llama", "lm", name))
    if name not in MERGING:
        with pytest.raises(
            ValueError, match=rf"q_proj cannot be merged: {name} .*keep the adapter"
        ):
            wrapped.merge_and_unload()
        assert torch.equal(output(wrapped), tuned)
        return
    for safe in (False, True):
        wrapped.merge_adapter(safe_merge=safe)
        assert relative(output(wrapped), tuned) < 1e-5
        wrapped.unmerge_adapter()
        assert torch.equal(output(wrapped), tuned)
    merged = wrapped.merge_and_unload(safe_merge=True)
    assert relative(output(merged), tuned) < 1e-5
    assert plan_of(merged) == {site: SVD(d.rank + 2) for site, d in plan.items()}
    merged.save_pretrained(tmp_path)
    assert_same(loaded(AutoModelForCausalLM, tmp_path).eval(), merged)


def test_a_rank_that_would_pass_the_full_one_is_the_full_one():
    model = pico("llama", "lm")
    factorize(model, {"layers.0.self_attn.k_proj": SVD(15)})
    wrapped = lora(adopt(model), target_modules=["k_proj"], r=4)
    tuned = step(wrapped)
    merged = wrapped.merge_and_unload()
    assert plan_of(merged) == {"layers.0.self_attn.k_proj": SVD(16)}
    assert relative(output(merged), tuned) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_narrower_mlps(family):
    wrapped = lora(narrower(family)[0].eval(), target_modules="all-linear")
    tuned = step(wrapped)
    assert any("mlp" in path for path in at(wrapped))
    assert relative(output(wrapped.merge_and_unload()), tuned) < 1e-5


def test_an_adapter_of_factors_fits_the_merged_model(tmp_path):
    model = compressed("gpt2", "lm", "btd")
    wrapped = lora(model)  # by default at c_attn, whose dense weight is (I, O)
    tuned = step(wrapped)
    wrapped.save_pretrained(tmp_path)
    dense = merge(compressed("gpt2", "lm", "btd")).eval()
    again = peft.PeftModel.from_pretrained(dense, tmp_path)
    assert relative(output(again), tuned) < 1e-5
    assert relative(output(again.merge_and_unload()), tuned) < 1e-5


def test_biases_of_adapters_merge_too():
    wrapped = lora(compressed("opt", "lm", "svd"), target_modules=["q_proj"], lora_bias=True)
    tuned = step(wrapped)
    assert relative(output(wrapped.merge_and_unload()), tuned) < 1e-5


def test_two_adapters_and_one_of_transformers(tmp_path):
    wrapped = lora(compressed("llama", "lm", "btd"), target_modules="all-linear")
    first = step(wrapped)
    wrapped.add_adapter("second", peft.LoraConfig(r=3, target_modules="all-linear"))
    wrapped.set_adapter("second")
    assert relative(step(wrapped), first) > 1e-2
    wrapped.set_adapter("default")
    assert torch.equal(output(wrapped), first)
    model = compressed("llama", "lm", "svd")
    plan = plan_of(model)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    again = compressed("llama", "lm", "svd")
    again.load_adapter(str(tmp_path))
    assert torch.equal(output(again.eval()), output(model.eval()))
    assert plan_of(model) == plan


def test_the_factors_of_svd_can_be_named_each(tmp_path):
    model = compressed("bert", "lm", "svd")
    before = output(model)
    wrapped = lora(model, task_type=None, target_modules=r".*self\.query\.weight\.(left|right)")
    assert len(at(wrapped)) == 2 * 2  # layers, factors
    tuned = step(wrapped)
    assert relative(tuned, before) > 1e-3
    merged = wrapped.merge_and_unload()
    assert relative(output(merged), tuned) < 1e-5
    merged.save_pretrained(tmp_path)
    assert_same(loaded(auto("bert", "lm"), tmp_path), merged)


REFUSED = {
    "a start from a dense weight": ({"init_lora_weights": "pissa"}, "starts from a dense weight"),
    "DoRA": ({"use_dora": True}, "plain LoRA"),
    "a table of factors": ({"target_modules": ["embed_tokens"]}, r"embed_tokens\.weight\.left"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_sentence(case):
    given, match = REFUSED[case]
    with pytest.raises(ValueError, match=match) as found:
        lora(
            compressed("llama", "lm", "svd", embedding=True),
            **{"target_modules": ["q_proj"], **given},
        )
    assert "\n" not in str(found.value)


def test_a_head_that_shares_the_table_is_not_merged():
    model = compressed("llama", "lm", "svd", embedding=True, tie_word_embeddings=True)
    wrapped = lora(model, target_modules=["lm_head", "q_proj"])
    tuned = step(wrapped)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="shares its factors"):
        wrapped.merge_and_unload()
    assert torch.equal(output(wrapped), tuned)


CODE = """
import sys, tlmtool
assert not {"peft", "torch", "transformers"} & set(sys.modules)
from peft import AutoPeftModelForCausalLM
print(type(AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).base_model.model).__name__)
"""


def python(code: str, *args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_adapter_in_a_new_process_finds_its_model(tmp_path):
    model = compressed("llama", "lm", "btd")
    model.save_pretrained(tmp_path / "base")
    wrapped = lora(loaded(AutoModelForCausalLM, tmp_path / "base"), task_type=None)
    wrapped.save_pretrained(tmp_path / "adapter")
    ran = python(CODE, tmp_path / "adapter")
    assert ran.stdout == "TlmLlamaForCausalLM\n", ran.stderr


def test_dense_models_are_as_ever():
    wrapped = lora(pico("llama", "lm"), target_modules=["q_proj"])
    tuned = step(wrapped)
    merged = wrapped.merge_and_unload()
    assert type(merged.get_submodule("model.layers.0.self_attn.q_proj")) is nn.Linear
    assert relative(output(merged), tuned) < 1e-5
