"""LoRA adapters: products of two thin matrices beside linear layers, in the files of peft."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tlmtool.models.surgery import below
from tlmtool.models.weights import write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TASKS = {  # end of the name of a class: the task that peft calls it; others have none
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


@dataclass
class Adapter:
    """What is added to linear layers: W x becomes W x + B A x.

    `pairs`: {site: (A (R, I), B (O, R))}. R is the same everywhere, as servers read one rank.
    """

    rank: int
    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add(self, site: str, a: Tensor, b: Tensor) -> None:
        """Add a pair; one of a lower rank, of a small layer, is filled up with zeros."""
        lacks = self.rank - a.shape[0]
        a, b = nn.functional.pad(a, (0, 0, 0, lacks)), nn.functional.pad(b, (0, lacks))
        self.pairs[site] = (a.contiguous(), b.contiguous())

    def attach(self, model: PreTrainedModel, site: str) -> Any:
        """Let the layer at a site give its output with the pair added; returns the handle that ends
        this."""
        a, b = self.pairs[site]

        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            x = args[0]
            return output + linear(linear(x, a.to(x.dtype)), b.to(x.dtype)).to(output.dtype)

        return model.base_model.get_submodule(site).register_forward_hook(hook)

    @contextmanager
    def attached(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, the model computes with all pairs added."""
        with ExitStack() as stack:
            for site in self.pairs:
                stack.callback(self.attach(model, site).remove)
            yield

    def write(self, model: PreTrainedModel, base: str, folder: Path) -> int:
        """Write the two files that peft reads; returns the bytes of the weights. `base`: the model
        that the adapter is for, as it is named there."""
        tensors = dict[str, Tensor]()
        for site, (a, b) in self.pairs.items():
            name = f"base_model.model.{below(model, site)}"
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        write_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
        text = json.dumps(self._config(model, base), indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        return (folder / WEIGHTS).stat().st_size

    def _config(self, model: PreTrainedModel, base: str) -> dict[str, Any]:
        """What adapter_config.json says. What is missing here has the default of peft."""
        base_model: Any = model.base_model
        turned = [isinstance(base_model.get_submodule(site), Conv1D) for site in self.pairs]
        kind = type(model).__name__
        return {
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": all(turned),
            "inference_mode": True,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": self._targets(model),
            "task_type": next((t for end, t in TASKS.items() if kind.endswith(end)), None),
        }

    def _targets(self, model: PreTrainedModel) -> list[str]:
        """The last parts of the names of the layers, where these name no other linear; or else the
        whole names."""
        paths = {below(model, site) for site in self.pairs}
        ends = {path.rpartition(".")[2] for path in paths}
        named = {p for p, _ in model.named_modules() if p.rpartition(".")[2] in ends}
        return sorted(ends if named == paths else paths)


def stored_dtype(model: PreTrainedModel, asked: str) -> torch.dtype:
    """The dtype of the files: that of the model, and float16 for one in float32, unless it was
    asked for. The adapter is a correction, and needs no more."""
    return torch.float16 if model.dtype == torch.float32 and asked == "auto" else model.dtype
