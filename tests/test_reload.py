"""Every property of DESIGN section 5: a converted checkpoint is an ordinary transformers one."""

import copy
import json
import os
import pickle
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from conftest import (
    CASES,
    CAUSAL,
    CONFIGS,
    SEQ2SEQ,
    auto,
    inputs,
    output,
    pico,
    type_of,
    word_tokenizer,
)
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from tlmtool.decompositions import NAMES, Decomposition, named
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.cp import CP
from tlmtool.decompositions.mpo import MPO
from tlmtool.decompositions.svd import SVD
from tlmtool.decompositions.tucker import Tucker
from tlmtool.models import modeling
from tlmtool.models.factorized import FactorizedLinear
from tlmtool.models.surgery import Plan, factorize, factorized, modes, plan_of, sites

ROOT = Path(__file__).parent.parent
FAMILY = pytest.mark.parametrize("family", CONFIGS)


def spec(name: str, split: tuple[int, int] | None) -> Decomposition:
    """A small decomposition; of rank 2 where it is not listed."""
    known = {
        "svd": SVD(4),
        "cp": CP(4, modes=split),
        "tucker": Tucker(3, modes=split),
        "btd": BTD(2, blocks=2, modes=split),
        "mpo": MPO(4),
    }
    heads = {"modes": split} if named(name).takes_heads else {}
    return known.get(name) or named(name)(2, **heads)


def plan_for(model: PreTrainedModel, name: str, embedding: bool = False) -> Plan:
    """One decomposition at every site; svd of rank 5 at the embedding."""
    found = sites(model).items()
    plan = {s: spec(name, modes(model, s, r)) for s, r in found if r != "embedding"}
    return plan | {s: SVD(5) for s, r in found if r == "embedding" and embedding}


def compressed(
    family: str, head: str = "base", name: str = "svd", embedding: bool = False, **more
) -> PreTrainedModel:
    model = pico(family, head, **more)
    factorize(model, plan_for(model, name, embedding))
    modeling.adopt(model)
    return model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def loaded(cls: type, folder: Path, **kwargs) -> PreTrainedModel:
    """A model of a folder, nothing of it missing, left over, or of another shape."""
    model, info = cls.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert not any(info.values()), info
    return model


def assert_same(a: PreTrainedModel, b: PreTrainedModel) -> None:
    """Difference exactly 0, in every tensor and in what comes out."""
    assert type(a) is type(b) and plan_of(a) == plan_of(b)
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype for k, v in ours.items())
    assert {n for n, _ in a.named_parameters()} == {n for n, _ in b.named_parameters()}
    assert torch.equal(output(a), output(b))


def fresh(code: str) -> subprocess.CompletedProcess:
    """Run in a new process, without our conftest."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", code]
    return subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_reload_is_exact(family, head, name, tmp_path):
    model = compressed(family, head, name)
    assert not torch.allclose(output(model), output(pico(family, head)), rtol=0.01)
    assert len(plan_of(model)) == len(sites(model)) - 1  # all but the embedding
    model.save_pretrained(tmp_path)
    assert_same(loaded(auto(family, head), tmp_path), model)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_reload_with_a_factorized_embedding_is_exact(family, head, tmp_path):
    model = compressed(family, head, "btd", embedding=True)
    model.save_pretrained(tmp_path)
    assert_same(loaded(auto(family, head), tmp_path), model)


def test_reload_in_a_new_process_is_exact(tmp_path):
    model = compressed("bert", "lm", "btd")
    model.save_pretrained(tmp_path)
    torch.save((inputs(model), output(model)), tmp_path / "truth.pt")
    ran = fresh(f"""
import torch, tlmtool
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained({str(tmp_path)!r})
x, y = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    print(type(model).__name__, float((model(**x).logits - y).abs().max()))
""")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["TlmBertForMaskedLM", "0.0"]


def test_without_us_it_is_an_error_never_noise(tmp_path):
    """Also by the family's own class, which of itself warns and goes on with random weights."""
    for family in CONFIGS:
        compressed(family).save_pretrained(tmp_path / family)
    ran = fresh(f"""
import json, transformers
from pathlib import Path
for folder in sorted(Path({str(tmp_path)!r}).iterdir()):
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    own = getattr(transformers, name.removeprefix("Tlm"))
    for cls in (transformers.AutoModel, transformers.AutoConfig, own, own.config_class):
        try:
            cls.from_pretrained(folder)
            print(folder.name, cls.__name__, "LOADED")
        except Exception as error:
            message = str(error).replace(chr(10), " ")
            print(folder.name, cls.__name__, "refused:", message)
""")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 4 * len(CONFIGS) and not [line for line in lines if "LOADED" in line]
    for line in lines:
        assert "import tlmtool" in line or f"`tlm-{line.split()[0].split('-')[0]}`" in line, line


def test_a_class_of_the_family_refuses_with_us_too(tmp_path):
    compressed("bert").save_pretrained(tmp_path)
    with pytest.raises(Exception, match="import tlmtool, then load it with an Auto class"):
        BertModel.from_pretrained(tmp_path)


@FAMILY
def test_the_config_survives_its_own_round_trips(family, tmp_path):
    config = compressed(family, embedding=True).config
    assert config.model_type == f"tlm-{type_of(family)}"
    config.save_pretrained(tmp_path)
    spread = next(n for n in modeling.SPREADS if hasattr(config, n))
    for again in (
        AutoConfig.from_pretrained(tmp_path),
        type(config)(**config.to_dict()),
        type(config).from_json_file(tmp_path / "config.json"),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert type(again) is type(config) and again.tlm == config.tlm
        assert getattr(again, spread) == getattr(config, spread)
        assert isinstance(getattr(again, spread), float)
    kept = json.loads((tmp_path / "config.json").read_text())["tlm"]
    assert kept["version"] == 1 and len(kept["plan"]) < len(plan_of(compressed(family)))


@FAMILY
def test_another_head_finds_the_factors(family, tmp_path):
    """Saved with a language-model head, opened bare and as a classifier: the same features."""
    model = compressed(family, "lm", "btd", embedding=True)
    model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    assert plan_of(bare) == plan_of(model)
    given = inputs(bare)
    with torch.no_grad():
        out = model.base_model(**given, output_hidden_states=True)  # of t5 with its head
        truth = out[0] if model.base_model is not model else out.decoder_hidden_states[-1]
        assert torch.equal(bare(**given)[0], truth)
        if (family, "classification") in CASES:
            classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
            assert plan_of(classifier) == plan_of(model) and classifier.config.num_labels == 3
            assert torch.equal(classifier.base_model(**given)[0], truth)
            assert output(classifier).isfinite().all()


def test_a_model_opened_bare_gets_a_head(tmp_path):
    model = compressed("bert", "base", "btd")
    model.save_pretrained(tmp_path)
    tagger = AutoModelForTokenClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(tagger.bert(**inputs(model))[0], output(model))
    tagger.save_pretrained(tmp_path / "tagger")
    assert_same(loaded(AutoModelForTokenClassification, tmp_path / "tagger"), tagger)


@FAMILY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loads_in_half_precision(family, dtype, tmp_path):
    model = compressed(family, "lm", "btd", embedding=True)
    model.save_pretrained(tmp_path)
    half = loaded(auto(family, "lm"), tmp_path, dtype=dtype)
    kept = {p.dtype for n, p in half.named_parameters() if "norm" not in n}
    assert dtype in kept and kept <= {dtype, torch.float32}
    if not half._keep_in_fp32_modules:
        assert kept == {dtype}
    y = output(half).float()
    assert y.isfinite().all() and relative(y, output(model)) < 0.25
    half.save_pretrained(tmp_path / "half")
    assert_same(loaded(auto(family, "lm"), tmp_path / "half"), half)
    if half.can_generate() and family != "bart":
        half.generate(**first_token(half), max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
def test_t5_keeps_in_float32_what_it_keeps_when_dense(family, tmp_path):
    """fp16 overflows in the last linear of its feed-forward: transformers keeps `wo` in fp32."""
    for name in ("svd", "btd"):
        compressed(family, "lm", name).save_pretrained(tmp_path / name)
        model = loaded(auto(family, "lm"), tmp_path / name, dtype=torch.float16)
        for path, module in factorized(model):
            found = {f.dtype for f in module.factors.values()}
            assert found == {torch.float32 if path.endswith(".wo") else torch.float16}, path
        tokens = model.generate(**first_token(model), max_new_tokens=4, do_sample=False)
        assert tokens.shape[1] >= 2 and output(model).isfinite().all()


@FAMILY
def test_half_in_place(family):
    for name in NAMES:
        model = compressed(family, "base", name, embedding=True)
        truth = output(model)
        for cast in ("half", "bfloat16", "double"):
            y = output(getattr(copy.deepcopy(model), cast)())
            assert y.isfinite().all() and relative(y.float(), truth) < 0.25


TIED = [f for f in CONFIGS if pico(f, "lm").config.tie_word_embeddings]


def table_and_head(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    return model.get_input_embeddings(), model.get_output_embeddings()


@FAMILY
@pytest.mark.parametrize("tie", [True, False])
def test_a_factorized_embedding_and_its_head(family, tie, tmp_path):
    dense = pico(family, "lm", tie_word_embeddings=tie)
    was_tied = table_and_head(dense)[0].weight is table_and_head(dense)[1].weight
    assert was_tied == tie or family in SEQ2SEQ
    model = pico(family, "lm", tie_word_embeddings=tie)
    (site,) = [s for s, r in sites(model).items() if r == "embedding"]
    factorize(model, {site: SVD(5)})
    modeling.adopt(model)
    v, e = table_and_head(dense)[0].weight.shape
    saved = v * e - 5 * (v + e)
    assert parameters(dense) - parameters(model) == saved  # once, however many modules share it
    table, head = table_and_head(model)
    shared = isinstance(head, FactorizedLinear)
    assert shared == was_tied
    if shared:
        w = table.dense_weight()
        states = torch.randn(3, e)
        with torch.no_grad():
            bias = head.bias_parameter()
            expected = states @ w.T + (0 if bias is None else bias)
            torch.testing.assert_close(head(states), expected)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        stored = sum(prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    held = parameters(model) + sum(b.numel() for b in model.buffers())
    assert stored <= held, "the shared table is stored twice"
    again = loaded(auto(family, "lm"), tmp_path)
    assert_same(again, model)
    for one in (model, again):
        assert parameters(dense) - parameters(one) == saved
        table, head = table_and_head(one)
        if shared:
            assert all(head.factors[k] is f for k, f in table.factors.items())
            one.zero_grad()
            one(**inputs(one))[0].square().sum().backward()
            with torch.no_grad():
                for f in table.factors.values():
                    f.sub_(0.01 * f.grad)
            torch.testing.assert_close(head.dense_weight(), table.dense_weight())


def first_token(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {k: v for k, v in inputs(model).items() if k != "decoder_input_ids"}


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
@pytest.mark.parametrize("name", ["svd", "btd"])
def test_generate_with_a_cache_equals_the_merged_models(family, name, tmp_path):
    model = compressed(family, "lm", name, embedding=True)
    model.save_pretrained(tmp_path)
    model = loaded(auto(family, "lm"), tmp_path)
    given = {**first_token(model), "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with_cache = model.generate(**given, use_cache=True)
    assert with_cache.shape[1] >= 8
    assert torch.equal(model.generate(**given, use_cache=False), with_cache)
    assert torch.equal(modeling.merge(model).generate(**given, use_cache=True), with_cache)


def test_generation_config_is_kept(tmp_path):
    model = compressed("gpt2", "lm")
    model.generation_config.max_new_tokens, model.generation_config.do_sample = 5, True
    model.generation_config.temperature = 0.7
    model.save_pretrained(tmp_path)
    kept = loaded(auto("gpt2", "lm"), tmp_path).generation_config
    assert (kept.max_new_tokens, kept.do_sample, kept.temperature) == (5, True, 0.7)


@pytest.mark.parametrize(
    ("task", "family", "head"),
    [
        ("fill-mask", "bert", "lm"),
        ("text-generation", "gpt2", "lm"),
        ("text-generation", "llama", "lm"),
        ("feature-extraction", "bert", "base"),
        ("text-classification", "roberta", "classification"),
    ],
)
def test_pipeline_of_objects_and_of_a_folder(task, family, head, tmp_path):
    tokenizer = word_tokenizer()
    model = compressed(family, head, "btd")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "the cat [MASK] on a mat" if task == "fill-mask" else "the cat sat"
    more = {"max_new_tokens": 3, "do_sample": False} if task == "text-generation" else {}
    if task == "text-generation":
        more["pad_token_id"] = 1
        tokenizer = word_tokenizer(special=False)
        tokenizer.save_pretrained(tmp_path)
    by_object = pipeline(task, model=model, tokenizer=tokenizer, device="cpu")(text, **more)
    by_folder = pipeline(task, model=str(tmp_path), device="cpu")
    assert type(by_folder.model) is type(model)
    assert by_folder(text, **more) == by_object and by_object


def test_trainer_takes_two_steps_and_its_checkpoint_reloads(tmp_path):
    model = compressed("bert", "lm", "btd", embedding=True)
    rows = [{k: v[0] for k, v in inputs(model, seed).items()} for seed in range(4)]
    for line in rows:
        line["labels"] = line["input_ids"].clone()
    before = copy.deepcopy(model)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        save_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    result = Trainer(model=model, args=arguments, train_dataset=rows).train()
    assert result.global_step == 2 and 0 < result.training_loss < float("inf")
    for (path, new), (_, old) in zip(factorized(model), factorized(before), strict=True):
        for k, f in new.factors.items():
            assert not torch.equal(f, old.factors[k]), f"{path}.{k} did not move"
    assert_same(loaded(auto("bert", "lm"), tmp_path / "checkpoint-2"), model.eval())
    again = Trainer(model=before, args=arguments, train_dataset=rows)
    again.args.max_steps = 3
    assert again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2")).global_step == 3


@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_of_the_whole_graph_equals_eager(name):
    model = compressed("bert", "base", name, embedding=True)
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(graph(**inputs(model))[0], output(model), rtol=1e-5, atol=1e-5)


def test_sharded_folder(tmp_path):
    model = compressed("llama", "lm", "btd", embedding=True)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_same(loaded(auto("llama", "lm"), tmp_path), model)


def test_saving_again_after_a_change_saves_the_live_plan(tmp_path):
    model = pico("bert", "lm")
    first, second = [s for s, r in sites(model).items() if r == "query"]
    factorize(model, {first: SVD(4)})
    modeling.adopt(model)
    factorize(model, {second: BTD(2, blocks=2, modes=(4, 8))})
    factorize(model, {first: SVD(3)})  # factors of factors
    model.save_pretrained(tmp_path)
    again = loaded(auto("bert", "lm"), tmp_path)
    assert plan_of(again) == {first: SVD(3), second: BTD(2, blocks=2, modes=(4, 8))}
    assert_same(again, model)
    again.save_pretrained(tmp_path / "again")  # a re-loaded model saves as well
    assert_same(loaded(auto("bert", "lm"), tmp_path / "again"), model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_merge_is_a_plain_checkpoint_with_parity(family, head, name, tmp_path):
    dense, model = pico(family, head), compressed(family, head, name, embedding=True)
    given, before = inputs(model), output(model)
    merged = modeling.merge(model)
    assert type(merged) is type(dense) and type(merged.config) is type(dense.config)
    assert not list(factorized(merged))
    assert relative(output(merged), before) <= 1e-5
    assert merged.state_dict().keys() == dense.state_dict().keys()
    assert [n for n, _ in merged.named_parameters()] == [n for n, _ in dense.named_parameters()]
    assert parameters(merged) == parameters(dense)
    merged.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["model_type"] == type_of(family) and "tlm" not in str(kept).lower()
    again = loaded(type(dense), tmp_path)
    assert type(again) is type(dense)
    with torch.no_grad():
        assert torch.equal(again(**given)[0], output(merged))


def test_a_merged_folder_loads_without_us(tmp_path):
    dense = pico("gpt2", "lm")
    model = modeling.merge(compressed("gpt2", "lm", "btd", embedding=True))
    model.save_pretrained(tmp_path)
    torch.save((inputs(model), output(model)), tmp_path / "truth.pt")
    ran = fresh(f"""
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
x, y = torch.load({str(tmp_path / "truth.pt")!r})
with torch.no_grad():
    same = float((model(**x).logits - y).abs().max())
print(type(model).__name__, sum(p.numel() for p in model.parameters()), same)
assert "tlmtool" not in sys.modules
""")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["GPT2LMHeadModel", str(parameters(dense)), "0.0"]


@FAMILY
def test_merge_of_full_rank_gives_the_original(family):
    dense, model = pico(family, "lm"), pico(family, "lm")
    plan = {s: SVD() if r == "embedding" else BTD() for s, r in sites(model).items()}
    factorize(model, plan)
    modeling.adopt(model)
    assert relative(output(model), output(dense)) <= 1e-4
    merged = modeling.merge(model)
    for key, tensor in dense.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[key], tensor, rtol=1e-4, atol=1e-5)


def test_a_merged_model_can_be_factorized_again(tmp_path):
    model = modeling.merge(compressed("bart", "lm", "btd", embedding=True))
    factorize(model, plan_for(model, "svd", embedding=True))
    modeling.adopt(model)
    model.save_pretrained(tmp_path)
    assert_same(loaded(auto("bart", "lm"), tmp_path), model)


def test_what_cannot_be_trained_stays_so():
    model = pico("bert", "lm").requires_grad_(False)
    factorize(model, plan_for(model, "svd", embedding=True))
    frozen = [n for n, p in modeling.merge(model).named_parameters() if p.requires_grad]
    assert not frozen


def test_a_plan_of_a_newer_version_is_refused(tmp_path):
    compressed("bert").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    kept["tlm"]["version"] = 2
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"version 2, this tlm reads up to 1: upgrade tlmtool"):
        AutoModel.from_pretrained(tmp_path)


def test_a_plan_that_does_not_fit_is_refused(tmp_path):
    compressed("bert").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    kept["tlm"]["plan"][0]["decomposition"]["rank"] = 900
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"layer.0.attention.self.query: rank 900 is above 32"):
        AutoModel.from_pretrained(tmp_path)
    kept["tlm"]["plan"][0]["decomposition"] = {"name": "qr"}
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"unknown decomposition 'qr'; known: btd"):
        AutoModel.from_pretrained(tmp_path)


def test_peft_finds_the_factors_of_svd(tmp_path):
    peft = pytest.importorskip("peft")
    model = compressed("bert", "lm", "svd")
    before = output(model)
    config = peft.LoraConfig(r=2, target_modules=r".*self\.query\.weight\.(left|right)")
    wrapped = peft.get_peft_model(model, config)
    adapters = [n for n, p in wrapped.named_parameters() if p.requires_grad]
    assert len(adapters) == 2 * 2 * 2  # layers, factors, A and B
    assert torch.equal(output(wrapped), before)  # B starts at zero
    wrapped(**inputs(model), labels=inputs(model)["input_ids"]).loss.backward()
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if p.requires_grad:
                assert p.grad is not None or "lora_A" in name
                p.add_(0.1 * torch.randn_like(p))
    tuned = output(wrapped)
    assert not torch.allclose(tuned, before, rtol=1e-3)
    wrapped.save_pretrained(tmp_path)
    fresh_one = peft.PeftModel.from_pretrained(compressed("bert", "lm", "svd"), tmp_path)
    assert torch.equal(output(fresh_one), tuned)
    unloaded = wrapped.merge_and_unload()
    assert relative(output(unloaded), tuned) < 1e-5
    unloaded.save_pretrained(tmp_path / "merged")
    assert_same(loaded(auto("bert", "lm"), tmp_path / "merged"), unloaded)


def test_svd_factors_are_linears_with_the_bias_in_the_last():
    model = compressed("bert", "base", "svd")
    for _, module in factorized(model):
        right, left = module.weight
        assert type(right) is type(left) is nn.Linear
        assert right.bias is None and left.bias is not None
        assert (right.in_features, left.out_features) == (module.in_features, module.out_features)
        assert right.out_features == left.in_features == 4


@pytest.mark.parametrize("name", NAMES)
def test_deepcopy_and_pickle(name):
    model = compressed("gpt2", "lm", name, embedding=True)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(again, model)
        table, head = table_and_head(again)
        assert head.factors["left"] is table.factors["left"]
        assert head.factors["left"] is not table_and_head(model)[0].factors["left"]
        assert relative(output(modeling.merge(again)), output(model)) <= 1e-5


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_gradient_checkpointing(family):
    model = compressed(family, "lm", "btd", embedding=True).train()
    for module in model.modules():
        for name in ("p", "dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    found = []
    for on in (False, True):
        model.gradient_checkpointing_enable() if on else None
        model.zero_grad()
        model(**inputs(model), use_cache=False)[0].square().mean().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-3, atol=1e-5)


@FAMILY
@pytest.mark.parametrize("name", NAMES)
def test_the_skeleton_on_meta_has_the_right_sizes(family, name):
    """What a dry run counts is what is made."""
    real = compressed(family, "lm", name, embedding=True)
    with torch.device("meta"):
        empty = auto(family, "lm").from_config(pico(family, "lm").config)
    factorize(empty, plan_of(real))
    sizes = {n: p.shape for n, p in empty.named_parameters()}
    assert sizes == {n: p.shape for n, p in real.named_parameters()}
    assert all(p.is_meta for p in empty.parameters())
