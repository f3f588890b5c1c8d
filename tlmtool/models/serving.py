"""The plug-in that lets vLLM open our checkpoints, and what vLLM must know of their models.

vLLM runs models of transformers through its own backend for them. It looks a model up by the name
of its class, as `architectures` in config.json has it, so `register` enters the names of ours.
"""

from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from tlmtool.models.architectures import NAME
from tlmtool.models.factorized import FactorizedEmbedding, FactorizedLinear
from tlmtool.models.kernels import converted
from tlmtool.models.surgery import factorized

SERVED = "tlmtool.models.served"  # its classes; vLLM imports the file when it loads one of them
HEADS = {  # {transformers' table of classes: the class in that file}
    "MODEL_MAPPING_NAMES": "TransformersEmbeddingModel",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "TransformersForSequenceClassification",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "TransformersForCausalLM",
}
ENDINGS = ("ForCausalLM", "LMHeadModel", "ForSequenceClassification", "Model")  # of their names. By
# the ending vLLM decides whether a model generates, classifies or embeds


def register() -> None:
    """Enter our classes in vLLM's registry: language models, embeddings, classifiers of texts.

    vLLM calls this in each of its processes, through the entry point `vllm.general_plugins`. It
    imports no model, and may be called several times.
    """
    from vllm import ModelRegistry

    for name, served in architectures().items():
        ModelRegistry.register_model(name, f"{SERVED}:{served}")


def architectures() -> dict[str, str]:
    """{name of our class: the class that serves it}"""
    found: dict[str, str] = {}
    for table, served in HEADS.items():
        for names in getattr(modeling_auto, table).values():
            several = (names,) if isinstance(names, str) else names
            found |= {NAME + name: served for name in several if name.endswith(ENDINGS)}
    return found


def refusal(
    model: PreTrainedModel, devices: int = 1, experts: bool = False, classifies: bool = False
) -> str | None:
    """Why vLLM cannot serve a model, in one sentence with the way round; None where it can.

    `devices`: among which vLLM splits each layer; `experts`: whether it is a mixture of experts;
    `classifies`: whether it is the base model of a classifier.
    """
    plain = "serve what `tlm merge` writes"
    factors = dict(factorized(model))
    if model.config.is_encoder_decoder:
        return "vLLM serves no model with an encoder and a decoder: use transformers"
    if classifies and all(getattr(m, "is_causal", True) for m in model.modules()):
        return "vLLM classifies by the first token, and a decoder by the last one: use transformers"
    if paths := [path for path, _ in converted(model)]:
        return f"vLLM computes attention itself, and {paths[0]} has a kernel: use transformers"
    if tables := [p for p, m in factors.items() if isinstance(m, FactorizedEmbedding)]:
        return (
            f"vLLM looks up rows of one table, and {tables[0]} is held as two factors: {plain}, or "
            "compress without the embedding, as with --sites attention,ffn"
        )
    if factors and experts:
        return f"tlm does not serve a mixture of experts with factors in vLLM: {plain}"
    if factors and devices > 1:
        return (
            f"vLLM would split each factor as if it were the whole weight: {plain}, or give "
            "--tensor-parallel-size 1"
        )
    return None


def tell_apart(model: nn.Module) -> None:
    """Give modules that call factorized linears a class for each set of them, in place.

    vLLM looks at one module of a class and then treats all of that class alike: it puts three
    linears for query, key and value into one, for instance. Layers of one model may have different
    sites factorized.
    """
    for module in list(model.modules()):
        held = [n for n, m in module.named_children() if isinstance(m, FactorizedLinear)]
        if held:
            own: Any = type(module)
            module.__class__ = _calling(own, tuple(held))


@cache
def _calling(base: type, factors: tuple[str, ...]) -> Any:
    """The subclass of a class of modules in which the linears with these names are factorized."""
    return type(base.__name__, (base,), {"__module__": __name__, "factorized": factors})
