"""A plan in the making: what each site becomes, and why a site stays dense."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tlmtool.compression.candidates import Candidates
from tlmtool.decompositions import Decomposition
from tlmtool.failure import Usage
from tlmtool.models.roles import OTHER

FEW = 0.10  # a site that keeps less of its parameters is warned of: raise it for more warnings


@dataclass
class Draft:
    """A plan in the making: what each site becomes, what stays dense and why, and warnings."""

    plan: dict[str, Decomposition] = field(default_factory=dict)
    left_dense: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    few: dict[str, float] = field(default_factory=dict)  # {site that keeps little: its share}

    @property
    def told(self) -> list[str]:
        """The warnings; those of sites that keep little are one."""
        if not self.few:
            return self.warnings
        site = min(self.few, key=lambda each: self.few[each])
        least = f"{site} keeps {self.few[site]:.3f} of its parameters"
        if more := len(self.few) - 1:
            least += f", the least of {more + 1} sites that keep less than {FEW:g}"
        return [least, *self.warnings]

    def take(self, sites: Candidates, site: str, found: Decomposition | None) -> None:
        """Note a site's decomposition, or that it stays dense since that would not be smaller."""
        o, i = sites.shape(site)
        try:
            size = sites.size(site, found) if found else o * i
        except Usage as error:  # a gate or a router may be tiny beside the others
            if sites.roles[site] != OTHER:
                raise
            self.left_dense[site] = str(error).removesuffix(f" ({site})")
            return
        if size >= o * i:
            self.left_dense[site] = (
                f"{found.name} at rank {found.rank} would hold {size:,} parameters, "
                f"W holds {o * i:,}"
                if found
                else f"no factors of a matrix ({o}, {i}) are smaller than it"
                if o * i <= o + i
                else "its share of the budget is the dense weight"
            )
            return
        assert found is not None
        self.plan[site] = found
        if size < FEW * o * i:
            self.few[site] = size / (o * i)

    def cut(self, sites: Candidates, down: str, width: int) -> None:
        """Note the width of an MLP."""
        for site, found in sites.mlps[down].cut(sites.model, width).items():
            self.take(sites, site, found)


def cut(sites: Candidates, widths: Mapping[str, int]) -> Draft:
    """The plan of {down: the width of its MLP}, with nothing else."""
    draft = Draft()
    for down, width in widths.items():
        draft.cut(sites, down, width)
    rest = [site for site in sites.roles if site not in sites.mlp_of]
    draft.left_dense |= {site: sites.no_mlp(site) for site in rest}
    draft.plan = {s: draft.plan[s] for s in sites.roles if s in draft.plan}
    return draft
