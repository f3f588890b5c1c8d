"""Distillation: the loss against a teacher, and the score of what was learned."""

from collections.abc import Callable
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from tlmtool.data.batching import Batch
from tlmtool.data.labels import matched
from tlmtool.data.lessons import Lesson
from tlmtool.measuring.evaluation import evaluate
from tlmtool.measuring.inputs import check_token, inputs_once, name_of, outputs_of, takes
from tlmtool.measuring.logits import Body, within
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.outputs import shifted
from tlmtool.measuring.predictions import classes_of, columns
from tlmtool.tasks.table import Task
from tlmtool.training.objectives import Objective


def measure_of(
    found: Lesson, teacher: nn.Module, tokenizer: Any, max_length: int
) -> tuple[str, str, Callable[[nn.Module], float]]:
    """(metric, which is better, model -> score). The score is that of the lesson's rows, or without
    any the error of the last hidden state against the teacher's on the held-out texts."""
    settings: dict[str, Any] = {"max_length": max_length}
    if found.task:
        settings |= {"read": (found.task, found.scored)}
    else:
        settings |= {"data": found.held, "against": teacher}
    name = found.task.name if found.task else "features"

    def score(model: nn.Module) -> float:
        found: float = evaluate(name, model, tokenizer, **settings)["models"][0]["score"]
        return 0.0 if isnan(found) else found  # not defined: it tells nothing apart

    if found.task:
        return found.task.metric, found.task.better, score
    return "feature error", "lower", score


class Distilled(Objective):
    """The model learns a teacher's hidden states on texts: those of each layer where both have as
    many layers, and of the last layer otherwise.

    The error of a layer on a text is relative to the mean square of the teacher's states, so that
    all layers count alike. Where both have a head, the divergence of their outputs at a temperature
    is added (Hinton et al. 2015). With `labelled`, so is the loss of the task, under dropout.
    """

    better = "lower"
    name = "feature error"
    dropout = False  # with dropout, the states of a teacher without it are learned through noise

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        inner: Objective,
        score: Callable[[nn.Module], float] | None,
        temperature: float,
        labelled: bool,
    ):
        self.inner, self.labelled = inner, labelled
        self.teacher = teacher.eval().requires_grad_(False)
        check_token(teacher, inner.largest)
        self.lengths, self.temperature, self.score = inner.lengths, temperature, score
        self.cut = inner.cut
        config = (model.config.get_text_config(), teacher.config.get_text_config())
        self.every = len({each.num_hidden_layers for each in config}) == 1
        self.shifts = takes(model, "decoder_input_ids")
        self.order = order_of(model, teacher, inner.task if labelled else None)
        self.tokens = all(objective_of(each) for each in (model, teacher))
        if labelled:
            self.better, self.name, self.measure = inner.better, inner.name, inner.measure
            self.dropout = True

    def part(self, places: list[int], epoch: int) -> Batch:
        return self.inner.part(places, epoch)

    @torch.no_grad()
    def heads(self, model: nn.Module) -> bool:
        """Whether both give outputs; these are then learned beside the hidden states."""
        if self.tokens:
            return True
        inputs, theirs = self._inputs(model, self.part([0], 0))
        outputs = outputs_of(model, model, inputs), outputs_of(self.teacher, self.teacher, theirs)
        return alike(*outputs) is not None

    def _inputs(self, own: nn.Module, part: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the model takes for a batch, and what the teacher takes."""
        both = inputs_once(own, part), inputs_once(self.teacher, part)
        for each in both:
            each["output_hidden_states"] = True
            if self.shifts:
                each["decoder_input_ids"] = shifted(own, each["input_ids"])
        return both

    def of_teacher(self, part: Batch) -> dict[str, Any]:
        """What the teacher takes for a batch."""
        return self._inputs(self.teacher, part)[1]

    def loss(self, model: nn.Module, own: nn.Module, part: Batch) -> Tensor:
        inputs, theirs = self._inputs(own, part)
        mask = inputs["attention_mask"].float()  # (B, N)
        if self.tokens:
            with torch.no_grad():
                taught = Body(self.teacher, theirs)
            return within(model, own, inputs, lambda body: self._of_tokens(body, taught, mask))
        with torch.no_grad():
            true = outputs_of(self.teacher, self.teacher, theirs)
        found = outputs_of(model, own, inputs)
        loss = self._of_states(found, true, mask)
        if logits := alike(found, true):
            loss = loss + self._divergence(logits[0], logits[1][..., self.order], mask)
        if self.labelled:
            loss = loss + self.inner.loss_of(found.logits.float(), part)
        return loss

    def _of_states(self, found: Any, true: Any, mask: Tensor) -> Tensor:
        """How far the hidden states are from the teacher's, summed over texts."""
        states = zip(*(hidden(each) for each in (found, true)), strict=self.every)
        pairs = list(states)[1:] if self.every else [(hidden(found)[-1], hidden(true)[-1])]
        errors = [relative(a.float(), b.float(), mask[..., None]) for a, b in pairs]
        return torch.stack(errors).mean()

    def _of_tokens(self, body: Body, taught: Body, mask: Tensor) -> Tensor:
        """The loss of a model whose head predicts tokens, as the teacher's does."""
        places, share = mask.bool(), mask / mask.sum(1, keepdim=True)  # of the mean of each text
        weights, true = share[places], taught.last[places]

        def divergence(logits: Tensor, some: slice) -> Tensor:
            with torch.no_grad():
                wanted = taught.logits(true[some])
            common = min(logits.shape[-1], wanted.shape[-1])
            pair = logits[:, :common], wanted[:, :common]
            return (divergences(*pair, self.temperature) * weights[some]).sum()

        return self._of_states(body.output, taught.output, mask) + body.loss(places, divergence)

    def _divergence(self, found: Tensor, true: Tensor, mask: Tensor) -> Tensor:
        if found.shape[-1] == 1:  # a regression
            return (found - true).square().sum()
        each = divergences(found, true, self.temperature)
        if each.ndim == 2:  # (B, N): of each token
            each = (each * mask).sum(1) / mask.sum(1)
        return each.sum()

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {"score": self.score(model)}


def divergences(found: Tensor, true: Tensor, temperature: float) -> Tensor:
    """The divergence (...) of each distribution of logits (..., V) from the true one at a
    temperature, times its square, so that gradients stay as large at any temperature."""
    if temperature == 1:
        each: Tensor = _Divergence.apply(found, true)
        return each
    each = _Divergence.apply(found / temperature, true / temperature)
    return temperature**2 * each


class _Divergence(torch.autograd.Function):
    """KL(true || found) of logits. Its gradient is the difference of the two distributions, which
    is made in place: autograd would hold and read three times as many tensors (..., V)."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, true: Tensor) -> Tensor:
        log_found, log_true = log_softmax(found, -1), log_softmax(true, -1)
        p = log_true.exp()
        log_true.clamp_(min=torch.finfo(p.dtype).min)  # 0, and not NaN, where p is 0
        each = torch.linalg.vecdot(p, log_true.sub_(log_found))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_found.exp_().sub_(p))
        return each

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        (difference,) = ctx.saved_tensors
        return difference * above[0][..., None], None


def hidden(output: Any) -> tuple[Tensor, ...]:
    """The hidden states (B, N, E) in an output; of an encoder-decoder those of the decoder."""
    return getattr(output, "decoder_hidden_states", None) or output.hidden_states


def order_of(model: nn.Module, teacher: nn.Module, task: Task | None = None) -> Any:
    """Where a teacher's head has the classes of the model's head: by those of the task, as each is
    scored on it, or without a task by name. The order stays where names say nothing, or where the
    heads are not for classes, or for another number of them."""
    both = (model, teacher)
    heads = all(type(each).__name__.endswith("ForSequenceClassification") for each in both)
    if not heads or not model.config.num_labels == teacher.config.num_labels > 1:
        return slice(None)
    if task is None:
        found = matched(*map(classes_of, both), f"the teacher {name_of(teacher)}")
        return slice(None) if found is None else found
    own, theirs = (columns(task, each) for each in both)
    return [theirs[own.index(place)] for place in range(len(own))]


def alike(found: Any, true: Any) -> tuple[Tensor, Tensor] | None:
    """The outputs of two heads, float32. Tables of tokens may be padded to different sizes, so that
    heads which predict tokens are compared on those that both have. None where the two heads are
    for different things."""
    one, two = (getattr(each, "logits", None) for each in (found, true))
    if one is None or two is None or one.ndim != two.ndim:
        return None
    if one.ndim == 2 and one.shape != two.shape:
        return None
    common = min(one.shape[-1], two.shape[-1])
    return one[..., :common].float(), two[..., :common].float()


def relative(found: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """The mean square error of each text's tokens over the mean square of `true` there, summed. It
    is of each text by itself, so that it is the same in any batch."""
    wrong, scale = ((each.square() * mask).sum((1, 2)) for each in (found - true, true))
    return (wrong / scale).sum()
