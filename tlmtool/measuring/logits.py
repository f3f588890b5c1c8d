"""A language-model head that runs on a part of the tokens at a time: its logits, and their loss."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.measuring.inputs import rows_of

LOGITS = 2**25  # logits held at once, 128 MiB in float32; more means larger batches
LEARNED = 2**23  # the same in training, where up to ten tensors are as large; fewer take longer
LEARNED_THERE = 2**26  # the same on a GPU, which waits for the start of each operation on few

Forward = Callable[..., Any]
Part = slice  # of the tokens that a loss is a sum over


class Body:
    """What a language model computes before its head for a batch, so that the head can run on some
    of the tokens.

    `output`: what the model gives, its logits being those of the first token alone. `last`: what
    the head reads (B, N, E), or where the body of a model is not found, the logits (B, N, V).
    `read`: the parameters to train that the head uses. `run`: the forward pass of the model, where
    its own one is replaced.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Any], run: Forward | None = None):
        self.run, self.inputs = run or model.forward, inputs
        cuda = next(model.parameters()).device.type == "cuda"
        learned = LEARNED_THERE if cuda else LEARNED
        self.most = (learned if torch.is_grad_enabled() else LOGITS) // rows_of(model)
        self.kept, self.inner = dict[nn.Module, Any](), False
        encoder, *others = _modules(model)
        with ExitStack() as stack:
            for module in filter(None, (encoder, *others)):
                noting = self._noting(module, module.forward, module is not encoder)
                stack.enter_context(replaced(module, noting))
            self.output = self.run(**inputs)
        self.reads = next((m for m in others if "last_hidden_state" in self.kept.get(m, ())), None)
        if self.reads and logits_in(self.output).shape[:2] != (1, 1):  # the head reads another one
            self.reads, self.output = None, self.run(**inputs)
        self.last = logits = logits_in(self.output)
        self.read = list[Tensor]()
        if self.reads is not None:
            self.last, self.read = self.kept[self.reads]["last_hidden_state"], _leaves(logits)

    def _noting(self, module: nn.Module, forward: Forward, ends: bool) -> Forward:
        """A forward pass whose output is kept, unless it is within another one. If the head reads
        it (`ends`), it is cut to the first token."""

        def noting(*args: Any, **inputs: Any) -> Any:
            if self.inner:
                return forward(*args, **inputs)
            self.inner = True
            output = self.kept[module] = forward(*args, **inputs)
            self.inner = False
            if not ends or "last_hidden_state" not in output:
                return output
            return _reading(output, output["last_hidden_state"][:1, :1].detach())

        return noting

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits (M, V), float32, of some rows of `last`."""
        if self.reads is None:
            return hidden.float()
        outputs = self.kept | {self.reads: _reading(self.kept[self.reads], hidden[None])}
        with ExitStack() as stack:
            for module, output in outputs.items():
                stack.enter_context(replaced(module, lambda *_, found=output, **__: found))
            return logits_in(self.run(**self.inputs))[0].float()

    def loss(self, places: Tensor | None, loss_of: Callable[[Tensor, Part], Tensor]) -> Tensor:
        """The sum of `loss_of(logits, part)` over the tokens at these places (B, N), or all, some
        at a time: `logits` (M, V) are those of the tokens `part` in the order of the places.

        Gradients are as of all logits at once, up to rounding. They are computed at once, so that
        no logits are kept for the backward pass. It runs once, and has no derivative itself."""
        chosen = self.last.flatten(0, 1) if places is None else self.last[places]
        found: Tensor = _Parts.apply(self, loss_of, chosen, *self.read)
        return found

    def parts(self, tokens: int) -> Iterator[Part]:
        """Parts of so many tokens, of nearly equal size, whose logits are held at once."""
        size = -(-tokens // -(-tokens // max(1, self.most))) if tokens else 1
        for start in range(0, tokens, size):
            yield slice(start, start + size)


class _Parts(torch.autograd.Function):
    """The loss of `Body.loss`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, body: Body, loss_of: Any, hidden: Tensor, *read: Tensor) -> Tensor:
        learns = any(ctx.needs_input_grad)
        total = hidden.new_zeros((), dtype=torch.float32)
        slopes, ctx.slopes = list[Tensor](), None
        moved = torch.empty_like(hidden) if learns else None
        for part in body.parts(len(hidden)):
            with torch.set_grad_enabled(learns):
                leaf = hidden[part].detach().requires_grad_(learns)
                loss = loss_of(body.logits(leaf), part)
            total += loss.detach()
            if moved is not None:
                moved[part], *found = torch.autograd.grad(loss, [leaf, *read])
                added = (a.add_(b) for a, b in zip(slopes, found, strict=True))
                slopes = list(added) if slopes else found
        if moved is not None:
            ctx.slopes = [moved, *(slopes or map(torch.zeros_like, read))]
        return total

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        slopes, ctx.slopes = ctx.slopes, None
        return None, None, *(slope.mul_(above[0]) for slope in slopes)


def within(
    model: nn.Module, own: nn.Module, inputs: dict[str, Any], work: Callable[[Body], Tensor]
) -> Tensor:
    """`work` on the body of a model in place of its forward pass. `own` is the model, `model` what
    wraps it, and sees to it that processes share their gradients."""
    run = own.forward
    with replaced(own, lambda **given: work(Body(own, given, run))):
        found: Tensor = model(**inputs)
    return found


def logits_in_parts(
    model: nn.Module, inputs: dict[str, Any], places: Tensor, targets: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits (M, V), targets (M,)) of some of the places (B, N) at a time, without gradients.

    A vocabulary of 262,144 has 2 GiB of logits for a window of 2,048. So the body of the model runs
    once, and its head on as many tokens at a time as `LOGITS` allows."""
    with torch.no_grad():
        body = Body(model, inputs)
        hidden = body.last[places]
        for part in body.parts(len(hidden)):
            yield body.logits(hidden[part]), targets[part]


def logits_in(output: Any) -> Tensor:
    """The logits (B, N, V) in the output of a language model."""
    found: Tensor = output["logits"] if "logits" in output else output["prediction_logits"]
    return found


@contextmanager
def replaced(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Within it, a function is the forward pass of a module."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _modules(model: nn.Module) -> list[nn.Module | None]:
    """The encoder of an encoder-decoder, or else None, and modules whose output the head may read:
    the base model, and the decoder within it, which some heads call by itself."""
    base: Any = model.base_model
    encoder = base.get_encoder() if model.config.is_encoder_decoder else None
    return [
        encoder,
        *(each for each in dict.fromkeys((base, base.get_decoder())) if each is not model),
    ]


def _reading(output: Any, hidden: Tensor) -> Any:
    """The output of a body with other last hidden states."""
    return type(output)(**{**output, "last_hidden_state": hidden})


def _leaves(found: Tensor) -> list[Tensor]:
    """The parameters that a tensor has gradients for."""
    nodes, seen, leaves = [found.grad_fn], set(), list[Tensor]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes += [each for each, _ in node.next_functions]
    return leaves
