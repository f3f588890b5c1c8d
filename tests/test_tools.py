"""The tools of transformers work on converted models: Trainer, pipeline, compile."""

import copy

import pytest
import torch
from conftest import auto, inputs, output, word_tokenizer
from factored import assert_same, compressed, loaded
from test_laws import ALONE
from torch import nn
from transformers import Trainer, TrainingArguments, pipeline

from tlmtool.models.surgery import factorized


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


@pytest.mark.parametrize("name", ALONE)
def test_torch_compile_of_the_whole_graph_equals_eager(name):
    model = compressed("bert", "base", name, embedding=True)
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(graph(**inputs(model))[0], output(model), rtol=1e-5, atol=1e-5)


def test_svd_factors_are_linears_with_the_bias_in_the_last():
    model = compressed("bert", "base", "svd")
    for _, module in factorized(model):
        right, left = module.weight
        assert type(right) is type(left) is nn.Linear
        assert right.bias is None and left.bias is not None
        assert (right.in_features, left.out_features) == (module.in_features, module.out_features)
        assert right.out_features == left.in_features == 4


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
