"""The ONNX graph of a model, traced by torch.export with an open batch and an open length."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from tlmtool.attention._plain import as_plain
from tlmtool.exporting._inputs import PAST, Signature, axes, example
from tlmtool.exporting._quiet import quiet
from tlmtool.failure import Failure, first_line
from tlmtool.measuring.inputs import takes
from tlmtool.models.kernels import converted

OPSET = 18  # of the ONNX operators; a newer one leaves out older programs


class Flat(nn.Module):
    """A model as a function of plain tensors, in the order of a signature.

    Positions are counted from the attention mask, as transformers does when it generates.
    """

    def __init__(self, model: Any, made: Signature):
        super().__init__()
        self.model, self.made = model, made

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs, by the names of the signature."""
        named = dict(zip(self.made.inputs, given, strict=True))
        held = [named.pop(name) for name in self.made.past]
        inputs: dict[str, Any] = dict(named)
        if takes(self.model, "use_cache"):
            inputs["use_cache"] = bool(held)
        if held:
            inputs["past_key_values"] = filled(held)
            if takes(self.model, "position_ids"):
                places = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
                inputs["position_ids"] = places[:, -inputs["input_ids"].shape[1] :]
        found = self.model(**inputs, return_dict=True)
        plain = self.made.outputs[: len(self.made.outputs) - len(held)]
        layers = found.past_key_values.layers if held else []
        cache = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return (*(found[name] for name in plain), *cache)


def _cause(error: BaseException) -> str:
    """The first line of the error that began it."""
    while (earlier := error.__cause__) is not None:
        error = earlier
    return first_line(error)


def filled(held: list[Tensor]) -> DynamicCache:
    """A cache that holds these keys and values, which may be of no token yet."""
    cache = DynamicCache()
    for keys, values in zip(held[::2], held[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


@torch.no_grad()
def write_graph(model: Any, made: Signature, file: Path) -> None:
    """Write a model as an ONNX graph, in float32. Raises Failure where it cannot be traced."""
    given = tuple(example(model, made, 2, 9, PAST if made.cache else 0).values())
    file.parent.mkdir(parents=True, exist_ok=True)
    flat = Flat(model, made).eval()
    try:
        with quiet(), as_plain():
            program = torch.onnx.export(
                flat,
                given,
                dynamo=True,
                dynamic_shapes=(tuple(axes(made)),),  # one argument: all tensors of `forward`
                input_names=[*made.inputs],
                output_names=[*made.outputs],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # of many kinds, from torch and from the model's own code
        kernels = {each.mixing.name for _, each in converted(model)}
        who = f"{' and '.join(sorted(kernels))} attention" if kernels else type(model).__name__
        raise Failure(
            f"torch.export cannot make a graph of {who} with an open length: {_cause(error)}"
        ) from error
    assert program is not None
    program.save(str(file))
