"""Flags to a plan: which sites, in which form, at which rank."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Tensor

from tlmtool.compression import allocation
from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.statistics import Statistics
from tlmtool.decompositions import NAMES, Decomposition, named
from tlmtool.decompositions.base import root, weigh
from tlmtool.decompositions.svd import spectrum
from tlmtool.failure import Usage
from tlmtool.models.architectures import GROUPS
from tlmtool.models.factorized import Factorized, FactorizedEmbedding, dense_weight, shape
from tlmtool.models.surgery import Plan, modes, sites

AUTO = ("svd", "tucker", "btd")  # cp: slow and poor; mpo: cannot be weighed by the data
FEW = 0.10  # a site that keeps less of its parameters is warned of


@dataclass
class Draft:
    """A plan in the making: what each site becomes, what stays dense and why, and warnings."""

    plan: Plan = field(default_factory=dict)
    left_dense: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def select(model: Any, wanted: Iterable[str], ignore: Iterable[str] = ()) -> dict[str, str]:
    """{site: role} of what `wanted` (attention, ffn, embedding, all, or globs) names."""
    known, chosen = sites(model), {}
    for pattern in wanted:
        roles = GROUPS.get(pattern, ())
        found = {s: r for s, r in known.items() if r in roles or fnmatchcase(s, pattern)}
        if not found:
            first = next(iter(known))
            raise Usage(
                f"no site matches {pattern!r}; name {', '.join(GROUPS)}, or a glob over the "
                f"{len(known)} sites, such as {first}"
            )
        chosen |= found
    for pattern in ignore:
        if not any(fnmatchcase(site, pattern) for site in known):
            raise Usage(
                f"--ignore {pattern}: no site matches it; give a glob over the {len(known)} sites, "
                f"such as {next(iter(known))}"
            )
        chosen = {s: r for s, r in chosen.items() if not fnmatchcase(s, pattern)}
    done = [s for s in chosen if isinstance(model.base_model.get_submodule(s), Factorized)]
    if done:
        raise Usage(f"{len(done)} of the sites are factorized already ({done[0]} ...): merge first")
    if not chosen:
        raise Usage("no site is left to factorize: --ignore takes all that --sites names")
    return {s: r for s, r in known.items() if s in chosen}


class Forms:
    """Makes decompositions for the sites of one model."""

    def __init__(self, model: Any, roles: dict[str, str], blocks: int | None = None):
        self.model, self.roles, self.blocks = model, roles, blocks

    def shape(self, site: str) -> tuple[int, int]:
        return shape(self.model.base_model.get_submodule(site))

    def make(
        self, site: str, method: str, rank: int | None, blocks: int | None = None
    ) -> Decomposition:
        """The form of one site; of an attention projection O is split into heads."""
        if method not in NAMES:
            raise Usage(f"unknown method {method!r}; known: auto, {', '.join(NAMES)}")
        if self.roles[site] == "embedding":
            method = "svd"
        fields: dict[str, Any] = {"rank": rank}
        if method in ("btd", "tucker", "cp"):
            fields["modes"] = modes(self.model, site, self.roles[site])
        if method == "btd":
            heads = self.model.config.num_attention_heads
            fields["blocks"] = blocks or self.blocks or heads
        return named(method)(**fields)

    def size(self, site: str, form: Decomposition) -> int:
        """Its parameters; a rank that it cannot have raises Usage."""
        try:
            return form.parameters(*self.shape(site))
        except ValueError as error:
            raise Usage(f"{error} ({site})") from None

    def largest(self, site: str, method: str, budget: int) -> Decomposition | None:
        """The form of highest rank within a budget of parameters; None where rank 1 is above it."""
        low, high = 0, max(self.shape(site)) + 1  # rank `low` fits, rank `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            form = self.make(site, method, middle)
            try:
                fits = form.parameters(*self.shape(site)) <= budget
            except ValueError:
                fits = False
            low, high = (middle, high) if fits else (low, middle)
        return self.make(site, method, low) if low else None


def by_rank(forms: Forms, rank: int, method: str | None, overrides: Iterable[Any] = ()) -> Draft:
    """Every site at one rank, but for the sites that an override names (the last one wins)."""
    draft = Draft()
    overrides = list(overrides)
    for override in overrides:
        if not any(fnmatchcase(s, override.sites) for s in forms.roles):
            raise Usage(f"the override for {override.sites!r} matches none of the sites named")
    for site in forms.roles:
        found = {"method": method or "btd", "rank": rank, "blocks": None}
        for override in overrides:
            if fnmatchcase(site, override.sites):
                given = ("method", "rank", "blocks")
                found |= {k: v for k in given if (v := getattr(override, k)) is not None}
        if found["method"] == "auto":
            raise Usage("--method auto needs a budget: give --keep or --energy instead of --rank")
        form = forms.make(site, found["method"], found["rank"], found["blocks"])
        take(draft, forms, site, form)
    return draft


def check(
    forms: Forms,
    rank: int | None,
    keep: float | None,
    method: str | None,
    overrides: Iterable[Any],
    weighed: bool,
) -> None:
    """Raises Usage for what no measuring makes possible: a form that there is not or that texts
    cannot weigh, a rank that nothing has or that makes nothing smaller, a share of the parameters
    below those of rank 1."""
    if rank is not None:
        check_draft(by_rank(forms, rank, method, overrides), weighed)
        return
    names, least, dense = AUTO if method in (None, "auto") else (method,), 0, 0
    for site in forms.roles:
        found = [forms.make(site, name, 1) for name in names]
        check_draft(Draft({site: found[0]}), weighed)
        least += min(forms.size(site, form) for form in found)
        dense += prod(forms.shape(site))
    if keep is not None and keep * dense < least:
        raise Usage(
            f"--keep {keep:g} leaves {int(keep * dense):,} parameters, and the sites named hold "
            f"{least:,} at rank 1: keep more, or name fewer sites"
        )


def check_draft(draft: Draft, measured: bool) -> None:
    """Raises Usage where nothing gets smaller, or a form cannot be weighed by the texts."""
    blind = next(((s, f) for s, f in draft.plan.items() if not f.takes_metric), None)
    if blind and measured:
        raise Usage(
            f"{blind[1].name} ({blind[0]}) splits the inputs, so no calibration text can weigh its "
            "error: give --calibration none, or take svd, tucker, btd or cp"
        )
    if not draft.plan:
        reason = next(iter(draft.left_dense.values()))
        raise Usage(f"no site would get smaller at this budget: {reason}")


def by_budget(
    forms: Forms,
    statistics: Statistics,
    keep: float | None,
    energy: float | None,
    method: str,
    allocate: str,
) -> Draft:
    """Spectra of all sites, then the parameters of each, then its form."""
    spectra: dict[str, Spectrum] = {}
    for site, weight, metric, g, moments in _weighed(forms, statistics, "measuring inputs"):
        if g is not None:
            unit = 1.0
        elif moments is not None:
            unit = float(moments.energy(weight))
        else:
            unit = float(weigh(weight, root(metric, weight.device)).square().sum())
        spectra[site] = spectrum_of(weight, metric, g, unit)
    budgets = (
        allocation.by_energy(spectra, energy)
        if energy is not None
        else getattr(allocation, allocate)(spectra, keep)
    )
    draft, spare = Draft(), 0
    alone = ((site, model_weight(forms.model, site), None, None, None) for site in spectra)
    found = _weighed(forms, statistics, "choosing forms") if method == "auto" else alone
    for site, weight, metric, g, _ in found:
        form = best_form(forms, site, method, budgets[site] + spare, weight, metric, g)
        take(draft, forms, site, form)
        if keep is not None:  # what the ranks of a form leave of its budget, the next site has
            taken = draft.plan.get(site)
            spare += budgets[site] - (forms.size(site, taken) if taken else weight.numel())
    draft.plan = {s: draft.plan[s] for s in forms.roles if s in draft.plan}
    return draft


def _weighed(forms: Forms, statistics: Statistics, what: str) -> Iterator[tuple]:
    """(site, W, metric, output metric, moments) of every site: tables first, then as they run."""
    for site in statistics.tables:
        metric = statistics.embedding_metric(site)
        yield site, model_weight(forms.model, site), metric, statistics.output_metric(site), None
    for group, moments in statistics.moments(what):
        for site in group:
            weight, metric = model_weight(forms.model, site), statistics.metric(site, moments)
            yield site, weight, metric, statistics.output_metric(site), moments


def take(draft: Draft, forms: Forms, site: str, form: Decomposition | None) -> None:
    """Put a form into the draft, unless it is no smaller than the dense weight."""
    o, i = forms.shape(site)
    size = forms.size(site, form) if form else o * i
    if size >= o * i:
        draft.left_dense[site] = (
            f"{form.name} at rank {form.rank} would hold {size:,} parameters, W holds {o * i:,}"
            if form
            else "its share of the budget is the dense weight"
        )
        return
    draft.plan[site] = form
    if size < FEW * o * i:
        draft.warnings.append(f"{site} keeps {size / (o * i):.3f} of its parameters")


def spectrum_of(weight: Tensor, metric: Tensor | None, g: Tensor | None, unit: float) -> Spectrum:
    """What a site (O, I) loses at each rank, in units of `unit`."""
    device = weight.device
    values = spectrum(weight, root(metric, device), root(g, device)) / max(unit, 1e-300)
    return Spectrum(values.cpu(), *weight.shape)


def best_form(
    forms: Forms,
    site: str,
    method: str,
    budget: int,
    weight: Tensor,
    metric: Tensor | None,
    g: Tensor | None,
) -> Decomposition | None:
    """The form at a budget; for `auto` the one with the least weighted error |g^T dW s|."""
    o, i = forms.shape(site)
    if budget >= o * i:
        return None
    names = (
        ("svd",) if forms.roles[site] == "embedding" else AUTO if method == "auto" else (method,)
    )
    found = [f for name in names if (f := forms.largest(site, name, budget))]
    if len(found) < 2:
        if not found:
            raise Usage(
                f"{site}: {budget:,} parameters are too few for {' or '.join(names)} at rank 1"
            )
        return found[0]
    s, t = root(metric, weight.device), root(g, weight.device)

    def error(form: Decomposition) -> float:
        g_taken = g if form.takes_output_metric else None
        factors = form.rough().decompose(weight, metric, g_taken)
        off = weigh(weight - form.reconstruct(factors), s)
        return float((off if t is None else t.mT @ off).norm())

    return min(found, key=error)


def model_weight(model: Any, site: str) -> Tensor:
    """W (O, I) of a site in float64; of an embedding its transpose (E, V), rows last."""
    module = model.base_model.get_submodule(site)
    weight = dense_weight(module).double()
    table = isinstance(module, torch.nn.Embedding | FactorizedEmbedding)
    return weight.T if table else weight
