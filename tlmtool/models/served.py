"""The models of vLLM that hold ours. vLLM imports this file, and nothing else does.

They are those of vLLM's backend for transformers. They bear its names too, because vLLM asks by the
name whether a model runs through this backend.
"""

from typing import Any

from vllm.model_executor.models import transformers as backend

from tlmtool.models.serving import refusal, tell_apart


class Served:
    """What is done before vLLM puts its own layers in the place of linears. Raises ValueError for a
    model that vLLM cannot serve."""

    classifies = False

    def recursive_replace(self: Any) -> None:
        experts = bool(getattr(self.model_config, "is_moe", False))
        devices = self.parallel_config.tensor_parallel_size
        if why := refusal(self.model, devices, experts, self.classifies):
            raise ValueError(why)
        tell_apart(self.model)
        theirs: Any = super()
        theirs.recursive_replace()


class TransformersForCausalLM(Served, backend.TransformersForCausalLM):
    """A language model."""


class TransformersEmbeddingModel(Served, backend.TransformersEmbeddingModel):
    """A model that gives a vector for each text."""


class TransformersForSequenceClassification(Served, backend.TransformersForSequenceClassification):
    """A model that gives each text a class or a score."""

    classifies = True
