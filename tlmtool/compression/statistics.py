"""What calibration text says about the chosen sites of one model, a block at a time."""

import copy
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from tlmtool.compression.calibration import Moments, Shelf, input_moments, split, token_frequencies
from tlmtool.compression.sensitivity import output_metrics
from tlmtool.compression.walking import Place, Walk, place_of, places_of, thrice
from tlmtool.data.batching import Batch
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.factorized import shape

ROOM = 32 * 2**20  # bytes of output metrics kept in memory; the rest goes to disk
TOKENS = 256  # in a batch of the backward pass: more of them take more memory
ALONE = 8  # groups outside of blocks that are measured in one pass: more take more memory
Progress = Callable[[str, int, int], None]


class Statistics:
    """Input moments and output metrics of sites, of the model as it is when this is made.

    Without batches nothing is measured; only with `sensitive` there are output metrics. `blind` are
    the sites of which texts say nothing: they are not called, or their inputs are no tokens.
    """

    def __init__(
        self,
        model: Any,
        roles: dict[str, str],
        batches: list[Batch],
        sensitive: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
    ):
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
        self._outputs: Shelf | None = None
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
                found = input_moments(here, groups, all(place.once for place in several))
                while groups:
                    yield groups.pop(0), found.pop(0)
        yield from (([site], None) for site in self.blind)

    def output_metric(self, site: str) -> Tensor | None:
        """G (O, O), float32: how much an error of the output changes the last hidden state."""
        if not self.sensitive:
            return None
        if self._outputs is None:
            self._outputs = self._sense()
        kept = self._outputs.kept
        return self._outputs.get(site, self.model.device)[0] if site in kept else None

    def _sense(self) -> Shelf:
        shelf, small = Shelf(ROOM), split(self.batches, TOKENS)
        places = [*self.places, *(Place("", 0, [table]) for table in self.tables)]
        for found in output_metrics(self.dense, places, small, self.seed):
            self.progress("measuring sensitivity", len(shelf.kept), len(self.roles))
            for site in list(found):
                shelf.put(site, [found.pop(site).float()])
            release_memory()
        return shelf

    def embedding_metric(self, site: str) -> Tensor | None:
        """How often each row is looked up, (V,); None without texts."""
        if not self.batches:
            return None
        return token_frequencies(self.batches, shape(self.dense.base_model.get_submodule(site))[0])


def _parts(places: list[Place], count: int) -> Iterator[list[Place]]:
    return (places[k : k + count] for k in range(0, len(places), count))


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares every tensor. It stays dense while modules of the first are swapped."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors})
