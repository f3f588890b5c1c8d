"""How much an error of each site changes the last hidden state: gradients, block by block."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.calibration import DAMPING, Running, Shelf, damp_, real
from tlmtool.compression.walking import Place, Walk, aligned, hooks, place_of
from tlmtool.data.batching import Batch

ROOM = 64 * 2**20  # bytes of block outputs kept in memory; the rest goes to disk


def output_metrics(
    model: nn.Module,
    places: list[Place],
    batches: list[Batch],
    seed: int = 0,
    advance: Callable[[Walk, str], None] = Walk.advance,
) -> Iterator[dict[str, Tensor]]:
    """{site: G (O, O)}, a block at a time, from the last to the first.

    G says how much an error of the site's output changes the last hidden state h. A site that h
    does not depend on has none. G = E[g g^T] with g = d(v . h) / d output at each token and v
    standard normal. This is the Gauss-Newton matrix of |h|^2: tr(G dW C dW^T) predicts the squared
    change of h. It takes one backward pass, and keeps only the outputs of blocks between blocks.
    `advance` moves the walk of the forward pass over the next block of a stack.
    """
    with _frozen(model):
        yield from _Backward(model, places, batches, seed).blocks(advance)


class _Backward:
    """The backward pass, cut at the outputs of blocks."""

    def __init__(self, model: nn.Module, places: list[Place], batches: list[Batch], seed: int):
        self.walk, self.seed = Walk(model, batches), seed
        self.sites: dict[tuple[str, int], list[str]] = defaultdict(list)  # of each block
        for place in places:
            for site in place.group:  # a group may have sites of several blocks
                own = place_of([site]) if place.stack else place
                self.sites[own.stack, own.index].append(site)
        self.outside = {s: Running() for s in self.sites.pop(("", 0), [])}  # of all blocks
        self.shelf = Shelf(ROOM)
        self.aims: dict[str, list[Any]] = {}  # {stack: d(v . h) / d its output so far}

    def blocks(self, advance: Callable[[Walk, str], None]) -> Iterator[dict[str, Tensor]]:
        """{site: G} of each block, last to first; at the end that of sites outside of blocks."""
        walk = self.walk
        stacks = list(dict.fromkeys(stack for stack, _ in self.sites))
        for stack in stacks:
            for index in range(len(walk.blocks(stack))):
                walk.reach(stack, index)
                advance(walk, stack)
                self.shelf.put((stack, index), [_hidden(y) for y in walk.outputs[stack]])
        self._step(None, self.outside)
        for stack in reversed(stacks):
            for index in reversed(range(len(walk.blocks(stack)))):
                if not self.sites and not self.outside:
                    return
                self._stand_before(stack, index)
                sums = {site: Running() for site in self.sites.pop((stack, index), [])}
                self._step((stack, index), sums | (self.outside if index == 0 else {}))
                yield _means(sums)
        yield _means(self.outside)

    def _stand_before(self, stack: str, index: int) -> None:
        """Move the walk back to a block, with the outputs that were kept."""
        walk = self.walk
        walk.at[stack] = index
        if index:
            kept = self.shelf.get((stack, index - 1), walk.model.device)
            found = zip(walk.outputs[stack], kept, strict=True)
            walk.outputs[stack] = [_with_hidden(y, hidden) for y, hidden in found]

    def _step(self, at: tuple[str, int] | None, sums: dict[str, Running]) -> None:
        """Back through the block at (stack, index); None: through what follows the last block."""
        walk, generator = self.walk, torch.Generator().manual_seed(self.seed)
        base, outputs = walk.model.base_model, []
        handles = [
            module.register_forward_hook(_noting(site, outputs))
            for site in sums
            for module in _same(base, site)
        ]
        before = self.aims.get(at[0]) if at else None
        if at:
            self.aims[at[0]] = [None] * len(walk.batches)
        with hooks(*handles):
            for place, batch in enumerate(walk.batches):
                leaves = self._leaves(place)
                if at:
                    y = _hidden(walk.output(place, walk.blocks(at[0])[at[1]], grad=True))
                    aim = before[place]
                else:
                    y = walk.run(place, grad=True)
                    aim = torch.randn(y.shape, generator=generator).to(y.device)
                    aim *= batch.inputs["attention_mask"].to(y.device)[..., None]
                noted = [*leaves.items(), *outputs]
                outputs.clear()
                if aim is None or not y.requires_grad:
                    continue
                wanted = [value for _, value in noted]
                grads = torch.autograd.grad(y, wanted, aim, allow_unused=True)
                for (name, _), grad in zip(noted, grads, strict=True):
                    if grad is None:
                        continue
                    if name in leaves:
                        known = self.aims.setdefault(name, [None] * len(walk.batches))
                        known[place] = grad if known[place] is None else known[place] + grad
                    elif aligned(grad, batch):
                        g = real(grad, batch)
                        sums[name].add(len(g), {"g": g})

    def _leaves(self, place: int) -> dict[str, Tensor]:
        """{stack: the output of its last finished block, as a leaf of the graph}."""
        leaves = {}
        for stack, done in self.walk.at.items():
            if done:
                outputs = self.walk.outputs[stack]
                leaves[stack] = _hidden(outputs[place]).detach().requires_grad_()
                outputs[place] = _with_hidden(outputs[place], leaves[stack])
        return leaves


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no gradient of a parameter is computed."""
    flags = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p in flags:
            p.requires_grad_(True)


def _means(sums: dict[str, Running]) -> dict[str, Tensor]:
    return {site: damp_(s.means()["g"], DAMPING) for site, s in sums.items() if s.count}


def _noting(site: str, outputs: list[tuple[str, Tensor]]) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        outputs.append((site, output if output.requires_grad else output.requires_grad_(True)))
        return output

    return hook


def _hidden(output: Any) -> Tensor:
    """The hidden state in the output of a block: all of it, or the first of several tensors."""
    return output if isinstance(output, Tensor) else output[0]


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def _same(base: nn.Module, site: str) -> list[nn.Module]:
    """The module of a site; for an embedding every embedding that shares its weight."""
    module = base.get_submodule(site)
    if not isinstance(module, nn.Embedding):
        return [module]
    tables = (m for m in base.modules() if isinstance(m, nn.Embedding))
    return [m for m in tables if m.weight is module.weight]
