"""Alignment: each converted layer learns, by itself, what the dense one gives on the same inputs.

One pass of the dense model shows the inputs and the outputs of all layers. No layer reads what
another converted one gives, so they all learn at once and no error adds up.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.walking import Stop, hooks
from tlmtool.data.batching import Batch
from tlmtool.failure import Usage
from tlmtool.models.attending import mixing, projections
from tlmtool.models.kernels import converted
from tlmtool.training.distilling import relative
from tlmtool.training.objectives import Objective

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Alignment(Objective):
    """Converted attention modules learn the outputs of a teacher's modules at the same paths.

    The error of a layer on a text is relative to the mean square of the teacher's output
    projection there, and the loss is the mean of all layers. `inner`: an objective that learns from
    the teacher, whose batches these are."""

    better = "lower"
    name = "output error"
    dropout = False

    def __init__(self, model: nn.Module, inner: Any):
        self.inner, self.teacher, self.lengths = inner, inner.teacher, inner.lengths
        base: Any = model.base_model
        self.paths = {p: projections(model, p)["output"] for p, _ in converted(base)}

    def part(self, places: list[int], epoch: int) -> Any:
        return self.inner.part(places, epoch)

    def count(self, part: Any) -> int:
        """How many texts these are."""
        return len(part.indices if isinstance(part, Batch) else part)

    def loss(self, model: nn.Module, own: nn.Module, part: Any) -> Tensor:
        """The relative error, summed over texts."""
        calls, outputs = self._of_teacher(part)
        base, errors = own.base_model, list[Tensor]()
        for path, output in self.paths.items():
            found, true = _called(base, path, output, calls[path]), outputs[output]
            mask = true.new_ones(true.shape[:2], dtype=torch.float32)
            if isinstance(part, Batch):
                mask = part.inputs["attention_mask"].to(mask)
            errors.append(relative(found.float(), true.float(), mask[..., None]))
        return torch.stack(errors).mean()

    @torch.no_grad()
    def _of_teacher(self, part: Any) -> tuple[dict[str, Call], dict[str, Tensor]]:
        """{attention module: what it is called with}, {output projection: what it gives}."""
        calls, outputs, base = dict[str, Call](), dict[str, Tensor](), self.teacher.base_model

        def called(path: str) -> Any:
            return lambda module, args, inputs: calls.update({path: (args, inputs)})

        def gave(path: str) -> Any:
            def keep(module: nn.Module, args: Any, output: Tensor) -> None:
                outputs[path] = output
                if len(outputs) == len(self.paths):
                    raise Stop

            return keep

        handles = []
        for path, output in self.paths.items():
            module = base.get_submodule(path)
            handles.append(module.register_forward_pre_hook(called(path), with_kwargs=True))
            handles.append(base.get_submodule(output).register_forward_hook(gave(output)))
        with hooks(*handles), suppress(Stop):
            self.teacher(**self.inner.of_teacher(part))
        return calls, outputs


def _called(base: Any, path: str, output: str, call: Call) -> Tensor:
    """What the output projection of an attention module gives, where the module is called so. Some
    families keep the projection beside it. The module is in float32, and reads (B, N, E) in it,
    whatever the dtype of the teacher is."""
    seen: list[Tensor] = []
    projection = base.get_submodule(output)
    with hooks(projection.register_forward_hook(lambda m, args, found: seen.append(found))):
        args, inputs = call
        read = {name: _wide(x) for name, x in inputs.items()}
        found = base.get_submodule(path)(*map(_wide, args), **read)
    mixed = found[0] if isinstance(found, tuple) else found
    return seen[0] if seen else projection(mixed)


def _wide(x: Any) -> Any:
    """Hidden states (B, N, E) in float32, and anything else, such as a mask, as it is."""
    return x.float() if isinstance(x, Tensor) and x.ndim == 3 and x.is_floating_point() else x


@contextmanager
def attention_alone(model: nn.Module) -> Iterator[None]:
    """Inside, the weights of converted attention alone are trained, of those that are."""
    held = {id(p) for module in mixing(model) for p in module.parameters()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
    for each in others:
        each.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise Usage(
            "recovery.align trains converted attention, of which recovery.layers names none"
        )
    try:
        yield
    finally:
        for each in others:
            each.requires_grad_(True)
