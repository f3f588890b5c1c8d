"""trl trains our checkpoints from their path: five steps, saved, and opened again."""

import pytest
import torch
from conftest import sentences, word_tokenizer
from factored import assert_same, compressed, loaded
from transformers import AutoModelForCausalLM

from tlmtool.models.surgery import factorized, plan_of


@pytest.mark.parametrize("name", ["svd", "btd"])
def test_supervised_fine_tuning_from_a_path(name, tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    before = compressed("llama", "lm", name)
    before.save_pretrained(tmp_path / "m")
    word_tokenizer().save_pretrained(tmp_path / "m")
    settings = {"max_steps": 5, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    settings |= {"report_to": "none", "use_cpu": True, "save_strategy": "no", "bf16": False}
    trainer = trl.SFTTrainer(
        str(tmp_path / "m"),
        args=trl.SFTConfig(output_dir=str(tmp_path / "out"), max_length=16, **settings),
        train_dataset=datasets.Dataset.from_dict({"text": sentences(10)}),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "tuned"))
    model = trainer.model.eval()
    assert type(model) is type(before) and plan_of(model) == plan_of(before)
    held = dict(before.named_parameters())
    for path, module in factorized(model):
        moved = [not torch.equal(p, held[f"{path}.{n}"]) for n, p in module.named_parameters()]
        assert all(moved), path
    assert_same(loaded(AutoModelForCausalLM, tmp_path / "tuned").eval(), model)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", trust_remote_code=True)
    assert type(again) is type(before)
