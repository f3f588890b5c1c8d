"""Distillation of a causal language model: it learns a teacher's outputs on windows of text."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.measuring.inputs import check_token, takes
from tlmtool.measuring.logits import Body, within
from tlmtool.training.distilling import divergences, hidden, relative
from tlmtool.training.objectives import Objective


class Imitation(Objective):
    """A causal language model learns the outputs of a teacher on windows of joined text.

    The loss of a token is KL(teacher || model), the divergence of the two distributions over the
    next token, in nats at a temperature of 1. It counts every token alike, and is computed for
    some of them at a time. `weights`: those of the divergence, and of the error of the hidden
    states, which is relative to the mean square of the teacher's in each window and layer.

    `rows`: the windows, token ids that are equally many in each, so that nothing is padded.
    """

    better = "lower"
    name = "loss"
    dropout = False  # with dropout, outputs of a teacher without it are learned through noise

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        rows: list[list[int]],
        score: Callable[[nn.Module], float] | None = None,
        temperature: float = 1.0,
        weights: tuple[float, float] = (1.0, 0.0),
    ):
        self.ids = torch.tensor(rows)  # (windows, N)
        self.lengths = [len(row) for row in rows]
        for each in (model, teacher):
            check_token(each, int(self.ids.max()))
        self.teacher = teacher.eval().requires_grad_(False)
        self.score, self.temperature, self.weights = score, temperature, weights
        config = (model.config.get_text_config(), teacher.config.get_text_config())
        self.every = len({each.num_hidden_layers for each in config}) == 1
        self.place = next(model.parameters()).device

    def part(self, places: list[int], epoch: int) -> Tensor:
        """The windows (B, N) at these places, on the device of the model."""
        found = self.ids[torch.tensor(places)]
        if self.place.type == "cuda":  # the GPU does not wait for a copy from pinned memory
            found = found.pin_memory()
        return found.to(self.place, non_blocking=True)

    def count(self, part: Tensor) -> int:
        return part.numel()

    def of_teacher(self, part: Tensor) -> dict[str, Any]:
        """What the teacher takes for windows."""
        return self._inputs(self.teacher, part)

    def loss(self, model: nn.Module, own: nn.Module, part: Tensor) -> Tensor:
        with torch.no_grad():
            taught = Body(self.teacher, self.of_teacher(part))
        return within(model, own, self._inputs(own, part), lambda body: self._of(body, taught))

    def _inputs(self, model: nn.Module, part: Tensor) -> dict[str, Any]:
        """What a model takes. No mask is needed, as nothing is padded."""
        found: dict[str, Any] = {"input_ids": part}
        if takes(model, "use_cache"):
            found["use_cache"] = False
        if self.weights[1]:
            found["output_hidden_states"] = True
        return found

    def _of(self, body: Body, taught: Body) -> Tensor:
        """The loss, summed over tokens."""
        divergence, states = self.weights
        true, parts = taught.last.flatten(0, 1), list[Tensor]()

        def loss_of(logits: Tensor, some: slice) -> Tensor:
            with torch.no_grad():
                wanted = taught.logits(true[some])
            common = min(logits.shape[-1], wanted.shape[-1])
            return divergences(logits[:, :common], wanted[:, :common], self.temperature).sum()

        if divergence:
            parts.append(divergence * body.loss(None, loss_of))
        if states:
            tokens = body.last.shape[1]  # in a window, over whose mean the error is
            parts.append(states * tokens * self._of_states(body, taught))
        return sum(parts[1:], parts[0])

    def _of_states(self, body: Body, taught: Body) -> Tensor:
        """The relative error of the hidden states, summed over windows: the mean of all layers, or
        of the last one alone where the two have other numbers of layers."""
        found, true = hidden(body.output), hidden(taught.output)
        pairs = [*zip(found, true, strict=True)][1:] if self.every else [(found[-1], true[-1])]
        ones = pairs[0][0].new_ones(())
        errors = [relative(a.float(), b.float(), ones) for a, b in pairs]
        return torch.stack(errors).mean()

    def measure(self, model: nn.Module) -> dict[str, float]:
        if self.score is None:
            raise ValueError("this imitation was given nothing that scores a model")
        return {"score": self.score(model)}
