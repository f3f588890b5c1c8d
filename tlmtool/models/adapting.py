"""LoRA of peft on factorized sites: one adapter at a site, beside its factors.

peft puts LoRA on linears. It finds a site by the name that the site has in the dense model, and so
do we: an adapter has the same names and shapes on both. This file is imported with peft.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from peft import auto
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import Linear, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import INCLUDE_LINEAR_LAYERS_SHORTHAND, PeftType
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tlmtool.models.architectures import base_type
from tlmtool.models.factorized import Factorized, FactorizedEmbedding, FactorizedLinear

STARTS = (True, False, "gaussian", "orthogonal", "eva")  # of init_lora_weights. The others of peft
# read or change a dense weight
LINEARS = (nn.Linear, Conv1D, FactorizedLinear)


class FactorizedLoraLinear(Linear):
    """LoRA beside the factors of a site: its output is y + scaling B A x, as at a dense linear."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **kwargs: Any):
        super().__init__(base_layer, adapter_name, **kwargs)
        self._before: list[tuple[Any, ...]] = []  # what each merged adapter has replaced
        self.fan_in_fan_out = False

    def _get_in_out_features(self, module: Any) -> tuple[int, int]:
        return module.widths

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: Any, **kwargs: Any
    ) -> None:
        """Raises ValueError for a start that needs a dense weight, and for a variant of LoRA."""
        if config.init_lora_weights not in STARTS:
            raise ValueError(
                f"init_lora_weights={config.init_lora_weights!r} starts from a dense weight, and a "
                f"factorized site has none: use one of {STARTS}"
            )
        super().update_layer(adapter_name, r, lora_alpha, config, **kwargs)

    def resolve_lora_variant(self, *, config: Any, **kwargs: Any) -> None:
        """None, for plain LoRA. Raises ValueError for DoRA and other variants."""
        if super().resolve_lora_variant(config=config, **kwargs) is not None:
            raise ValueError(
                "a factorized site takes plain LoRA, not DoRA or another variant of it: leave the "
                "variant out of LoraConfig"
            )

    def why_not_merged(self) -> str | None:
        """Why LoRA cannot become part of the factors; None where it can."""
        base: Any = self.get_base_layer()
        held = base.decomposition
        if not held.takes_lora:
            return (
                f"{held.name} cannot hold W + BA: keep the adapter beside the model, or load it on "
                "the dense model that `tlm merge` writes, whose sites have the same names"
            )
        if any(type(link) is not nn.Linear for link in base.links):
            return "its factors are quantized or adapted themselves: load the checkpoint in floats"
        return None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Make adapters part of the factors: the rank of an svd grows by theirs. Raises ValueError
        where the factors cannot hold them, and with `safe_merge` for numbers that are not finite.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.lora_A:
                continue
            if why := self.why_not_merged():
                raise ValueError(f"LoRA cannot be merged: {why}")
            base: Any = self.get_base_layer()
            a, b, scaling = self.lora_A[name], self.lora_B[name], self.scaling[name]
            own, bias = base.decomposition, base.bias_parameter()
            factors = {k: f.detach() for k, f in base.factors.items()}
            with torch.no_grad():
                decomposition, wider = own.plus(factors, scaling * b.weight, a.weight)
                if b.bias is not None and bias is None:
                    raise ValueError("lora_bias cannot be merged into a site without a bias")
                moved = bias if b.bias is None else bias + scaling * b.bias
            if safe_merge and not all(f.isfinite().all() for f in wider.values()):
                raise ValueError(f"adapter {name} is broken: the merged factors are not finite")
            self._before.append((own, factors, bias))
            self._hold(decomposition, wider, moved)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put back the factors of before the last merges."""
        while self.merged_adapters:
            self.merged_adapters.pop()
            self._hold(*self._before.pop())

    def _hold(self, decomposition: Any, factors: dict[str, Tensor], bias: Tensor | None) -> None:
        base: Any = self.get_base_layer()
        base.refill(decomposition, factors)
        if bias is not None:
            base.set_bias(nn.Parameter(bias.detach().to(base.dtype), bias.requires_grad))


class FactorizedLoraModel(LoraModel):
    """peft's LoRA on any model; on one with factorized sites it finds these too."""

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        kind = base_type(str(model_config.get("model_type", "")))
        return super()._prepare_adapter_config(peft_config, {**model_config, "model_type": kind})

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        super()._prepare_model(peft_config, model)
        if not any(isinstance(m, Factorized) for m in model.modules()):
            return
        peft_config._register_custom_module(
            {FactorizedLinear: FactorizedLoraLinear, FactorizedEmbedding: _refuse_table}
        )
        wanted = peft_config.target_modules
        if isinstance(wanted, str) and wanted.lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND:
            peft_config.target_modules = all_linear(model, peft_config.task_type)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        uses = Counter(id(p) for m in self.model.modules() for p in m._parameters.values())
        for path, layer in adapted(self.model):
            base: Any = layer.get_base_layer()
            why = layer.why_not_merged()
            if why is None and any(uses[id(p)] > 1 for p in base.factors.values()):
                why = (
                    "it shares its factors with the token embedding, which must stay: keep the "
                    "adapter beside the model, or leave the head out of target_modules"
                )
            if why:
                raise ValueError(f"LoRA on {path} cannot be merged: {why}")


def adapted(model: nn.Module) -> Iterator[tuple[str, FactorizedLoraLinear]]:
    """(path, module) of every factorized site with LoRA."""
    return ((p, m) for p, m in model.named_modules() if isinstance(m, FactorizedLoraLinear))


def all_linear(model: Any, task_type: str | None) -> set[str]:
    """Paths of all linears, a factorized site being one; as in peft without the head that gives
    logits."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None and task_type == "SEQ_CLS":
        head = next((m for n in SEQ_CLS_HEAD_NAMES if (m := getattr(model, n, None))), None)
    covers = (Factorized, BaseTunerLayer)  # what lies in them is no linear of the model
    inner = tuple(f"{p}." for p, m in model.named_modules() if isinstance(m, covers))
    return {
        path
        for path, module in model.named_modules()
        if isinstance(_base(module), LINEARS) and module is not head
        if not path.startswith(inner)
    }


def _base(module: Any) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _refuse_table(target: nn.Module, adapter_name: str, *, target_name: str, **_: Any) -> None:
    raise ValueError(
        f"{target_name} is an embedding held as two factors, which LoRA cannot adapt as one: leave "
        f"it out of target_modules, or name {target_name}.weight.left there"
    )


def register() -> None:
    """Make peft use the classes of this file, and load models of ours for an adapter that names
    their class."""
    if PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType.LORA) is not LoraModel:
        return
    PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = FactorizedLoraModel
    trusted = auto.get_default_import_allowlist
    auto.get_default_import_allowlist = lambda: [*trusted(), "tlmtool"]
