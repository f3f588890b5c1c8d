"""What a budget leaves open before any spectrum is computed: the ranks that each site may get."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

from tlmtool.compression.candidates import TABLE, Candidates
from tlmtool.compression.drafting import Draft, cut
from tlmtool.compression.planning import methods
from tlmtool.compression.widths import even, share_of, unit_of
from tlmtool.decompositions import Decomposition
from tlmtool.models.rounding import step_of
from tlmtool.recipe.compression import Compression
from tlmtool.recipe.rules import NARROW


@dataclass(frozen=True)
class Range:
    """The least and the most that a site may get. `rank` is that of the decomposition `method`;
    the most is None where the site may stay dense."""

    site: str
    role: str
    shape: tuple[int, int]
    method: str
    rank: tuple[int, int | None]
    parameters: tuple[int, int]


class Open:
    """A budget of `keep` or `energy` for some sites. `weighed`: a text calibrates."""

    def __init__(self, sites: Candidates, wanted: Compression, weighed: bool):
        self.sites, self.wanted, self.weighed = sites, wanted, weighed
        self.methods = methods(wanted.method, weighed, sites.bits)
        self.sizes = {site: prod(sites.shape(site)) for site in sites.roles}
        self.narrow = NARROW in self.methods and wanted.share is not None
        self.least = {site: self._least(site) for site in sites.roles}

    @property
    def narrower(self) -> bool:
        """Whether `auto` may make MLPs narrower in place of giving their linears ranks."""
        wanted, auto = self.wanted, self.wanted.method in (None, "auto")
        able = auto and wanted.share is not None and wanted.fit == "sequential" and self.weighed
        return able and bool(self.sites.mlps)

    def method(self, site: str) -> str:
        """The decomposition that stands for all that `auto` may choose from."""
        if self.narrow:
            return NARROW
        if self.sites.roles[site] == "embedding" or TABLE in self.methods:
            return TABLE
        return self.methods[0]

    def _least(self, site: str) -> int:
        """The parameters of rank 1; those of W where no factors are smaller."""
        if self.narrow and site not in self.sites.mlp_of:
            return self.sizes[site]
        names = (TABLE,) if self.sites.roles[site] == "embedding" else self.methods
        sizes = (self.sites.size(site, self.sites.make(site, name, 1)) for name in names)
        return min([*sizes, self.sizes[site]])

    @property
    def budget(self) -> int:
        """The most parameters of all sites together."""
        whole = sum(self.sizes.values())
        return whole if self.wanted.share is None else int(self.wanted.share * whole)

    def ranges(self) -> list[Range]:
        """What each site may get."""
        return [self._range(site) for site in self.sites.roles]

    def _width(self, site: str) -> Range:
        """What a site may get where MLPs get narrower and all else stays dense."""
        mlp, role, shape = (
            self.sites.mlp_of.get(site),
            self.sites.roles[site],
            self.sites.shape(site),
        )
        size = self.sizes[site]
        if mlp is None:
            return Range(site, role, shape, NARROW, (1, None), (size, size))
        units = {each.down: unit_of(self.sites, each) for each in self.sites.mlps.values()}
        dense = sum(held for each, held in self.sizes.items() if each not in self.sites.mlp_of)
        others = sum(units.values()) - units[mlp.down]
        low, high = 1, min(mlp.width, (self.budget - dense - others) // units[mlp.down])
        if self.wanted.allocate == "uniform":
            low = high = self.even_widths[mlp.down]
        each = size // mlp.width
        return Range(site, role, shape, NARROW, (low, high), (low * each, high * each))

    @cached_property
    def even_widths(self) -> dict[str, int]:
        """{down: the width of each MLP} if all keep the same share."""
        return even(self.sites, share_of(self.sites, self.wanted.share or 1.0))

    def _range(self, site: str) -> Range:
        if self.narrow:
            return self._width(site)
        size, method = self.sizes[site], self.method(site)
        low, high = self.least[site], size
        if self.wanted.share is not None:
            others = sum(self.least.values()) - low
            high = max(low, min(size, self.budget - others))
        if self.wanted.share is not None and self.wanted.allocate == "uniform":
            low = max(low, int(self.wanted.share * size) - self._step(site))
            high = min(high, int(self.wanted.share * size) + max(map(self._step, self.sites.roles)))
        ends = [self._rank(site, method, each) for each in (low, high)]
        if low == size:  # it stays dense
            ends = [None, None]
        most = size if ends[1] is None else high
        role, shape = self.sites.roles[site], self.sites.shape(site)
        return Range(site, role, shape, method, (ends[0] or 1, ends[1]), (low, most))

    def _rank(self, site: str, method: str, budget: int) -> int | None:
        """The highest rank within a budget; None where W fits into it."""
        if budget >= self.sizes[site]:
            return None
        found = self.sites.largest(site, method, budget)
        rank = found.to_dict()["rank"] if found else 1
        return int(rank)

    def _step(self, site: str) -> int:
        """The parameters of one rank more, or of as many as a step in few bits has."""
        o, i = self.sites.shape(site)
        if min(o, i) == 1:
            return 0
        one, two = (self.sites.make(site, self.method(site), rank) for rank in (1, 2))
        step = step_of(o * i // (o + i), self.sites.bits)
        return step * (self.sites.size(site, two) - self.sites.size(site, one))

    def even(self) -> Draft:
        """The plan of a `keep` if every site keeps the same share."""
        if self.narrow:
            return cut(self.sites, self.even_widths)
        draft = Draft()
        for site in self.sites.roles:
            draft.take(self.sites, site, self._even(site))
        return draft

    def _even(self, site: str) -> Decomposition | None:
        o, i = self.sites.shape(site)
        budget = int((self.wanted.share or 1.0) * o * i)
        if budget >= o * i or o * i <= o + i:
            return None
        method = self.method(site)
        return self.sites.largest(site, method, budget) or self.sites.make(site, method, 1)

    def smallest(self) -> Draft:
        """The plan if every site gets rank 1."""
        if self.narrow:
            return cut(self.sites, dict.fromkeys(self.sites.mlps, 1))
        draft = Draft()
        for site in self.sites.roles:
            o, i = self.sites.shape(site)
            one = None if o * i <= o + i else self.sites.make(site, self.method(site), 1)
            draft.take(self.sites, site, one)
        return draft
