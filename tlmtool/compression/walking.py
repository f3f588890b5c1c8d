"""Running a model block by block over calibration batches, holding only what one block needs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tlmtool.compression.shelving import Row
from tlmtool.data.batching import Batch
from tlmtool.measuring.outputs import evaluating, last_hidden


class Stop(Exception):
    """Ends a forward pass early, once it has shown what it was run for."""


class Place(NamedTuple):
    """Where in a model a group of sites stands that all read the same input."""

    stack: str  # path of the ModuleList that holds their block; "" outside of blocks
    index: int  # of the block in the stack
    group: list[str]
    once: bool = True  # whether each of them is called once in a forward pass


@contextmanager
def hooks(*handles: Any) -> Iterator[None]:
    """Removes the hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Walk:
    """A model and batches. Blocks that are done do not run again: their last output is reused."""

    def __init__(self, model: nn.Module, batches: list[Batch]):
        self.model, self.batches, self.place = model, batches, 0  # the batch that runs
        self.at: dict[str, int] = {}  # {stack: blocks that are done}
        self.outputs: dict[str, Any] = {}  # {stack: output of the last one for each batch}
        self.inner: dict[str, Row] = {}  # {module: its output for each batch}, see `finish`

    def blocks(self, stack: str) -> nn.ModuleList:
        """The blocks of a stack."""
        return self.model.base_model.get_submodule(stack)

    def reach(self, stack: str, index: int) -> None:
        """Stand before a block of a stack, with the blocks before it and other stacks done."""
        for other in self.at:
            while other != stack and self.at[other] < len(self.blocks(other)):
                self.advance(other)
        while stack and self.at.setdefault(stack, 0) < index:
            self.advance(stack)

    def advance(self, stack: str) -> None:
        """Run the next block of a stack and keep its outputs."""
        block = self.blocks(stack)[self.at[stack]]
        row = Row()
        for place in range(len(self.batches)):
            row[place] = self.output(place, block)
        self.outputs[stack] = row
        self.at[stack] += 1
        self.inner.clear()

    def finish(self, modules: Iterable[str]) -> None:
        """Name modules of the block ahead that give the same outputs from now on. What they give in
        their next run is kept and reused, until the block is done."""
        self.inner = {path: self.inner.get(path) or Row() for path in modules}

    def output(self, place: int, block: nn.Module, grad: bool = False) -> Any:
        """The output of a block for a batch."""
        kept: list[Any] = []

        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            kept.append(output)
            raise Stop

        with hooks(block.register_forward_hook(keep)):
            self.run(place, grad)
        return kept[0]

    def run(self, place: int, grad: bool = False) -> Tensor | None:
        """The last hidden state (B, N, E) of a batch; None if a hook has stopped the pass."""
        self.place, calm = place, evaluating(self.model)
        with suppress(Stop), self._stubs(place), calm, torch.set_grad_enabled(grad):
            return last_hidden(self.model, self.batches[place])
        return None

    @contextmanager
    def _stubs(self, place: int) -> Iterator[None]:
        """Inside, blocks that are done return their last output for a batch."""
        with ExitStack() as stack:
            for path, done in self.at.items():
                output = self.outputs[path][place] if done else None
                for block in self.blocks(path)[:done]:
                    _replace(stack, block, output)
            for path, kept in self.inner.items():
                module = self.model.base_model.get_submodule(path)
                if place in kept:
                    _replace(stack, module, _copied(kept[place]))
                else:
                    handle = module.register_forward_hook(_keeping(kept, place))
                    stack.enter_context(hooks(handle))
            yield


def _replace(stack: ExitStack, module: nn.Module, output: Any) -> None:
    """Until the stack is left, the module gives this output instead of computing."""
    module.forward = lambda *args, **kwargs: output
    stack.callback(module.__dict__.pop, "forward")


def _keeping(kept: Row, place: int) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        if all(each is None or isinstance(each, Tensor) for each in tensors):
            kept[place] = _copied(output)

    return hook


def _copied(output: Any) -> Any:
    """A copy of a tensor, or of a tuple of them: models may change what a module gives in place."""
    if isinstance(output, tuple):
        return tuple(_copied(each) for each in output)
    return None if output is None else output.clone()


def aligned(x: Tensor, batch: Batch) -> bool:
    """Whether x (..., I) has a row for each token of a batch: (B, N, I) or (B N, I)."""
    b, n = batch.inputs["attention_mask"].shape
    return x.shape[:-1].numel() == b * n and (x.ndim == 2 or x.shape[0] == b)


def thrice(batch: Batch) -> Batch:
    """The first third of the text of a batch, three times. A table of positions, (1, N, I) or
    (N, I), may have as many rows as a text has tokens, but has none for each token of three."""
    most = max(1, batch.special.shape[1] // 3)
    inputs = {name: tensor[:1, :most].repeat(3, 1) for name, tensor in batch.inputs.items()}
    return Batch(batch.indices[:1] * 3, inputs, batch.special[:1, :most].repeat(3, 1))


def places_of(model: nn.Module, sites: list[str], batch: Batch) -> list[Place]:
    """Sites grouped by the input that they read, in the order in which the model runs them.

    A site whose inputs have no row for each token is in no group. All inputs are held at once, so a
    batch of few tokens is best. Sites of a stack whose blocks do not run one after another, each
    once, stand outside of blocks.
    """
    base = model.base_model
    seen: dict[int, list[str]] = {}
    kept, placed, calls = [], set[str](), Counter[str]()  # kept, so that no id is reused
    ran: list[tuple[str, int]] = []

    def note(site: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            calls[site] += 1
            if site not in placed and aligned(args[0], batch):
                placed.add(site)
                kept.append(args[0])
                seen.setdefault(id(args[0]), []).append(site)

        return hook

    def noted(stack: str, index: int) -> Callable:
        return lambda module, args: ran.append((stack, index))

    stacks = dict.fromkeys(place_of([site]).stack for site in sites)
    blocks = {s: [*base.get_submodule(s).children()] for s in stacks if s}
    handles = [base.get_submodule(s).register_forward_pre_hook(note(s)) for s in sites]
    for stack, several in blocks.items():
        for index, block in enumerate(several):
            handles.append(block.register_forward_pre_hook(noted(stack, index)))
    with hooks(*handles):
        Walk(model, [batch]).run(0)
    straight = {stack for stack, several in blocks.items() if _straight(stack, len(several), ran)}
    found = []
    for group in seen.values():
        place = place_of(group)._replace(once=all(calls[site] == 1 for site in group))
        found.append(place if place.stack in straight else place._replace(stack="", index=0))
    return found


def _straight(stack: str, count: int, ran: list[tuple[str, int]]) -> bool:
    """Whether the blocks of a stack ran one after another, with no block of another between."""
    at = [k for k, (name, _) in enumerate(ran) if name == stack]
    in_order = [ran[k][1] for k in at] == list(range(count))
    return in_order and at[-1] - at[0] == count - 1


def place_of(group: list[str]) -> Place:
    """Where a group stands, read off the path of its first site."""
    parts = group[0].split(".")
    at = next((k for k, part in enumerate(parts) if part.isdigit()), None)
    return Place("", 0, group) if at is None else Place(".".join(parts[:at]), int(parts[at]), group)
