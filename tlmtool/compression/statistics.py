"""What calibration text says about the chosen sites of one model, a block at a time."""

import copy
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.calibration import (
    LARGE,
    Moments,
    Shelf,
    input_moments,
    split,
    token_frequencies,
)
from tlmtool.compression.sensitivity import output_metrics
from tlmtool.compression.sharing import Shared
from tlmtool.compression.walking import Place, Walk, place_of, places_of, thrice
from tlmtool.data.batching import Batch
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.factorized import shape

ROOM = 64 * 2**20  # bytes of what the plan needs that are kept in memory; the rest goes to disk
PLAN = 16_384  # tokens that the plan is measured on; the factors are fitted to all of the text
TOKENS = 1024  # in a batch of the backward pass: more of them take more memory
ALONE = 8  # groups outside of blocks that are measured in one pass: more take more memory
Progress = Callable[[str, int, int], None]


class Statistics:
    """Input moments and output metrics of sites, of the model as it is when this is made.

    Without batches nothing is measured; only with `sensitive` there are output metrics. `blind` are
    the sites of which texts say nothing: they are not called, or their inputs are no tokens.
    `shared` keeps what a plan needs for the next compression of the same model.
    """

    def __init__(
        self,
        model: Any,
        roles: dict[str, str],
        batches: list[Batch],
        sensitive: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
        shared: Shared | None = None,
    ):
        self.shared = shared or Shared()
        self.model, self.roles, self.batches, self.seed = model, roles, batches, seed
        self.progress = progress or (lambda what, done, total: None)
        self.dense = twin(model) if batches else model
        self.tables = [s for s, role in roles.items() if role == "embedding"]
        linears = [s for s, role in roles.items() if role != "embedding"]
        self.places = (
            places_of(model, linears, thrice(split(batches[:1], 1)[0]))
            if batches and linears
            else [place_of([s]) for s in linears]
        )
        placed = {site for place in self.places for site in place.group}
        self.blind = [site for site in linears if site not in placed]
        self.sensitive = sensitive and bool(batches)

    def bias(self, site: str) -> Tensor | None:
        """The bias of a site in float64, if it has one."""
        bias = getattr(self.model.base_model.get_submodule(site), "bias", None)
        return None if bias is None else bias.detach().double()

    def metric(self, site: str, moments: Moments | None) -> Tensor | None:
        """The metric that weighs the error of a site; its bias carries the part of the mean."""
        return moments and moments.metric(self.bias(site) is not None)

    def moments(self, what: str) -> Iterator[tuple[list[str], Moments | None]]:
        """(group of sites, moments of its input in the dense model, or None without texts)."""
        walk, done = Walk(self.dense, self.batches), 0
        for (stack, index), places in groupby(self.places, key=lambda place: place[:2]):
            for several in _parts([*places], ALONE if not stack else len(self.places)):
                groups = [place.group for place in several]
                self.progress(what, done, len(self.places))
                done += len(groups)
                if not self.batches:
                    yield from ((group, None) for group in groups)
                    continue
                release_memory()
                here = walk if stack else Walk(self.dense, self.batches)
                here.reach(stack, index)
                found = _over(here, several)
                while groups:
                    yield groups.pop(0), found.pop(0)
        yield from (([site], None) for site in self.blind)

    def planning(self, what: str) -> Iterator[tuple[list[str], Moments | None]]:
        """As `moments`, of the text that the plan is measured on. Asked again, it does not measure
        again."""
        if not self.batches:
            yield from self.moments(what)
            return
        for done, place in enumerate(self.places):
            kept = self.shelf.get(tuple(place.group), self.model.device)
            self.progress(what, done, len(self.places))
            second = kept[2] if kept[2].numel() > LARGE else kept[2].double()
            yield list(place.group), Moments(int(kept[0]), kept[1].double(), second)
        yield from (([site], None) for site in self.blind)

    def output_metric(self, site: str) -> Tensor | None:
        """G (O, O), float32: how much an error of the output changes the last hidden state."""
        if not self.sensitive or site not in self.shelf.kept:
            return None
        return self.shelf.get(site, self.model.device)[0]

    @property
    def shelf(self) -> Shelf:
        """The moments of each group and the output metric of each site, on the text that the plan
        is measured on. One forward pass gives the moments, and one backward pass the metrics."""
        return self.shared.once("statistics", self._shelved)

    def _shelved(self) -> Shelf:
        shelf, few = Shelf(ROOM), sample(self.batches, PLAN, TOKENS)
        blocks = {at: [*found] for at, found in groupby(self.places, lambda place: place[:2])}

        def keep(walk: Walk, places: list[Place]) -> None:
            self.progress("measuring inputs", len(shelf.kept), len(self.places))
            for place, found in zip(places, _over(walk, places), strict=True):
                numbers = [torch.tensor(found.count), found.mean.float(), found.second.float()]
                shelf.put(tuple(place.group), numbers)

        def advance(walk: Walk, stack: str) -> None:
            release_memory()
            index = walk.at[stack]
            if places := blocks.get((stack, index), []):
                keep(walk, places)
            walk.reach(stack, index + 1)

        for several in _parts(blocks.pop(("", 0), []), ALONE):
            keep(Walk(self.dense, few), several)
        if self.sensitive:
            places = [*self.places, *(Place("", 0, [table]) for table in self.tables)]
            done = 0
            for metrics in output_metrics(self.dense, places, few, self.seed, advance):
                self.progress("measuring sensitivity", done, len(self.roles))
                done += len(metrics)
                for site in list(metrics):
                    shelf.put(site, [metrics.pop(site).float()])
                release_memory()
        else:
            walk = Walk(self.dense, few)
            for stack, index in blocks:
                walk.reach(stack, index)
                advance(walk, stack)
        return shelf

    def embedding_metric(self, site: str) -> Tensor | None:
        """How often each row is looked up, (V,); None without texts."""
        if not self.batches:
            return None
        return token_frequencies(self.batches, shape(self.dense.base_model.get_submodule(site))[0])


def _over(walk: Walk, places: list[Place]) -> list[Moments]:
    """The moments of groups that stand at one place. The walk goes on over their block in the same
    pass, if it is one and each site in it is called once."""
    once = all(place.once for place in places)
    stack = places[0].stack if once else ""
    return input_moments(walk, [place.group for place in places], once, stack)


def sample(batches: list[Batch], tokens: int, size: int) -> list[Batch]:
    """Batches of about `size` tokens, evenly spread over these; about `tokens` in all."""
    parts = split(batches, size)
    total = sum(int(part.inputs["attention_mask"].sum()) for part in parts)
    count = max(1, int(len(parts) * min(1, tokens / total)))
    return [parts[k * len(parts) // count] for k in range(count)]


def _parts(places: list[Place], count: int) -> Iterator[list[Place]]:
    return (places[k : k + count] for k in range(0, len(places), count))


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares every tensor. It stays dense while modules of the first are swapped."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors})
