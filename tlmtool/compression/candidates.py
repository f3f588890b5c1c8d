"""Which sites are factorized, and which decompositions each of them could have."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tlmtool.decompositions import NAMES, Decomposition, named
from tlmtool.failure import Usage
from tlmtool.models.factorized import Factorized, FactorizedEmbedding, dense_weight, shape
from tlmtool.models.neurons import Mlp, mlps_of, separable
from tlmtool.models.roles import FFN, GROUPS, roles_of
from tlmtool.models.rounding import step_of, width_step
from tlmtool.models.streaming import give_back
from tlmtool.models.surgery import head_count, modes, sites

TABLE = "svd"  # the decomposition of an embedding: the only one that rows can be looked up in


def select(model: Any, wanted: Iterable[str], ignore: Iterable[str] = ()) -> dict[str, str]:
    """{site: role} of what `wanted` (attention, ffn, embedding, all, linears, or globs) names.

    Raises Usage for a glob without a site, a site that is factorized already, or no site at all.
    """
    known, chosen, wanted = sites(model), dict[str, str](), tuple(wanted)
    some = next(iter(known), "")
    if not known:
        raise Usage(f"{type(model).__name__} has no linear layer or embedding to factorize")
    for pattern in wanted:
        roles = GROUPS.get(pattern, ())
        found = {s: r for s, r in known.items() if r in roles or fnmatchcase(s, pattern)}
        if not found:
            kind = type(model).__name__
            if pattern in GROUPS:
                continue  # a model may have some of the groups that are named
            raise Usage(
                f"no site matches {pattern!r} in {kind}; name "
                f"{', '.join(GROUPS)}, or a glob over its {len(known)} sites, such as {some}"
            )
        chosen |= found
    if not chosen:
        none = " or ".join(wanted)
        raise Usage(f"{type(model).__name__} has no sites of {none}{_experts(model)}")
    for pattern in ignore:
        if not any(fnmatchcase(site, pattern) for site in known):
            raise Usage(
                f"--ignore {pattern}: no site matches it; give a glob over the {len(known)} sites, "
                f"such as {some}"
            )
        chosen = {s: r for s, r in chosen.items() if not fnmatchcase(s, pattern)}
    done = [s for s in chosen if isinstance(model.base_model.get_submodule(s), Factorized)]
    if done:
        raise Usage(f"{len(done)} of the sites are factorized already ({done[0]} ...): merge first")
    if not chosen:
        raise Usage("no site is left to factorize: --ignore takes all that --sites names")
    return {s: r for s, r in known.items() if s in chosen}


def left_out(model: Any, wanted: Iterable[str]) -> list[str]:
    """A sentence for each reason why something that `wanted` names is no site."""
    reasons, wanted, kind = dict[str, list[str]](), tuple(wanted), type(model).__name__
    for path, why in roles_of(model).kept_dense.items():
        if any(pattern == "linears" or fnmatchcase(path, pattern) for pattern in wanted):
            reasons.setdefault(why, []).append(path)
    told = [f"{', '.join(paths)}: left dense, because {why}" for why, paths in reasons.items()]
    roles, experts = {*sites(model).values()}, _experts(model)
    if lacks := [name for name in wanted if name in GROUPS and not roles & {*GROUPS[name]}]:
        told.append(f"{kind} has no sites of {' or '.join(lacks)}{experts}")
    elif experts and {*wanted} & {"ffn", "all", "linears"}:
        told.append(f"{kind}{experts}")
    return told


def _experts(model: Any) -> str:
    """What to add where feed-forward blocks may be missing: experts are no linears."""
    tensors = model.base_model.named_parameters()
    held = [name for name, p in tensors if p.ndim == 3 and "expert" in name]
    return f": its experts, such as {held[0]}, are no linears and stay dense" if held else ""


class Candidates:
    """The decompositions that the chosen sites of one model could have.

    `roles`: {site: role}; `blocks`: P of a decomposition with blocks, by default the heads; `bits`:
    in which the factors will be stored, which takes ranks and widths that groups of numbers divide.
    """

    def __init__(
        self,
        model: Any,
        roles: dict[str, str],
        blocks: int | None = None,
        bits: int | None = None,
    ):
        self.model, self.roles, self.blocks, self.bits = model, roles, blocks, bits

    def shape(self, site: str) -> tuple[int, int]:
        """(O, I) of a linear, (V, E) of an embedding."""
        return shape(self.model.base_model.get_submodule(site))

    def weight(self, site: str) -> Tensor:
        """W (O, I) in float64; the transpose (E, V) of an embedding."""
        return weight_of(self.model, site)

    @cached_property
    def mlps(self) -> dict[str, Mlp]:
        """{down: its MLP} of those that can be made narrower, with all of their linears chosen."""
        whole = [mlp for mlp in mlps_of(self.model).values() if {*mlp.sites} <= {*self.roles}]
        return separable(self.model, whole)

    @cached_property
    def mlp_of(self) -> dict[str, Mlp]:
        """{site: the MLP of `mlps` that it belongs to}."""
        return {site: mlp for mlp in self.mlps.values() for site in mlp.sites}

    def takes(self, site: str, method: str) -> bool:
        """Whether a method can take a site; if it cuts whole MLPs, only one of `mlps`."""
        return method not in NAMES or named(method).alone or site in self.mlp_of

    def no_mlp(self, site: str) -> str:
        """Why a site belongs to none of `mlps`."""
        if self.roles[site] not in FFN:
            return "it is not part of an MLP"
        return "its MLP is not named whole, or cannot lose a single neuron"

    def make(
        self, site: str, method: str, rank: int | None, blocks: int | None = None
    ) -> Decomposition:
        """A decomposition for a site, which knows the heads of an attention projection."""
        if method not in NAMES:
            raise Usage(f"unknown method {method!r}; known: auto, {', '.join(NAMES)}")
        cls = named(TABLE if self.roles[site] == "embedding" else method)
        if not cls.alone:
            if (mlp := self.mlp_of.get(site)) is None:
                raise Usage(f"{method} cannot take {site}: {self.no_mlp(site)}")
            return mlp.cut(self.model, rank or mlp.width)[site]
        fields: dict[str, Any] = {"rank": rank}
        if cls.takes_heads:
            fields["modes"] = modes(self.model, site, self.roles[site])
        if "blocks" in cls.__dataclass_fields__:
            heads = head_count(self.model, site) or 1
            fields["blocks"] = blocks or self.blocks or heads
        return cls(**fields)

    def first(self, site: str, method: str) -> Decomposition:
        """The one of rank 1, or of the lowest rank that few bits can store."""
        o, i = self.shape(site)
        if named(method).alone or (mlp := self.mlp_of.get(site)) is None:
            step = step_of(o * i // (o + i), self.bits) if named(method).chain else 1
        else:
            step = width_step(mlp.width, self.bits)
        return self.make(site, method, step)

    def size(self, site: str, decomposition: Decomposition) -> int:
        """The parameters of a site; raises Usage for a rank that it cannot have."""
        try:
            return decomposition.parameters(*self.shape(site))
        except ValueError as error:
            raise Usage(f"{error} ({site})") from None

    def largest(self, site: str, method: str, budget: int) -> Decomposition | None:
        """The one of highest rank within a budget of parameters; None if rank 1 is above it.

        In few bits its rank is one that can be stored so, unless all such ranks are above it."""

        def fits(rank: int) -> bool:
            try:
                return self.make(site, method, rank).parameters(*self.shape(site)) <= budget
            except ValueError:  # above the highest rank
                return False

        low, high = 0, 1  # rank `low` fits, rank `high` does not
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        o, i = self.shape(site)
        if named(method).chain and low > (step := step_of(o * i // (o + i), self.bits)):
            low -= low % step
        return self.make(site, method, low) if low else None


def weight_of(model: Any, site: str) -> Tensor:
    """W (O, I) of a site in float64; the transpose (E, V) of an embedding, so that V are inputs."""
    module = model.base_model.get_submodule(site)
    weight = dense_weight(module).double()
    give_back()  # of a streamed model: the weight is a copy now
    table = isinstance(module, torch.nn.Embedding | FactorizedEmbedding)
    return weight.T if table else weight
