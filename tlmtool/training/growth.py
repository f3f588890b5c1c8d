"""Which exact MPO makes a weight larger by a factor: two end cores, found by search, and unit cores
between them."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import count, islice
from math import ceil
from typing import Any, NamedTuple

from tlmtool.compression.candidates import select
from tlmtool.decompositions.mpo import MPO
from tlmtool.failure import Usage
from tlmtool.measuring.counting import count_parameters, forward_flops
from tlmtool.measuring.outputs import position_limit
from tlmtool.models.factorized import shape
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import Plan, factorize, sites
from tlmtool.report.parts.step import Larger, Step
from tlmtool.report.pieces import Ends

CLOSE = 0.08  # share of the growth; larger lets in cheaper candidates that miss it by more
PADDED = 9  # sizes tried, for O and for I, where the divisors of a weight do not reach the growth


class Candidate(NamedTuple):
    """An MPO: sizes (O, I), perhaps padded, the first factors (a, b) of both, and k unit cores."""

    o: int
    i: int
    a: int
    b: int
    k: int

    @property
    def rank(self) -> int:
        return min(self.a * self.b, (self.o // self.a) * (self.i // self.b))

    @property
    def parameters(self) -> int:
        return self.o * self.i + (self.k + 1) * self.rank**2

    @property
    def skew(self) -> int:
        return abs(self.a * self.i - self.b * self.o)

    @property
    def cost(self) -> int:
        return (self.k + 1) * self.rank**3


def deepest(growth: float) -> int:
    """The most unit cores that are tried where no number is given. A deep chain is cheap to
    rebuild, but each core adds to how far a step moves W."""
    return max(3, ceil(2 * (growth - 1)))


@cache
def expansion(out_features: int, in_features: int, growth: float, cores: int | None = None) -> MPO:
    """The exact MPO of a weight (O, I) whose parameters are nearest to `growth` times those of W.

    It has two end factors (i1, j1), (i2, j2) and k unit cores (R, R) between them, where
    R = min(i1 j1, i2 j2). That makes O I + (k + 1) R^2 parameters, and (k + 1) R^3 multiply-adds to
    rebuild W. `cores` is k + 2; by default it is the cheapest within 8 % of the growth. The weight
    is padded where the divisors of O and I give nothing as near. Raises Usage for a growth of at
    most 1 or above k + 2.
    """
    if growth <= 1:
        raise Usage(f"growth {growth:g} makes nothing larger: it must be above 1")
    if cores is not None and cores < 2:
        raise Usage(f"{cores} cores are too few: the two ends are 2")
    counts = range(cores - 2, cores - 1) if cores else range(deepest(growth) + 1)
    if growth > counts[-1] + 2:
        most = counts[-1] + 2
        raise Usage(f"growth {growth:g} is above {most}, the most of {most} cores: give more")
    dense = out_features * in_features

    def off(each: Candidate) -> float:
        return abs(each.parameters / dense - growth) / growth

    nearest = None
    for o, i in _sizes(out_features, in_features):
        found = [c for k in counts for c in _candidates(o, i, k)]
        close = [c for c in found if off(c) <= CLOSE]
        if close:
            nearest = min(close, key=lambda c: (c.cost, off(c), c.skew))
            break
        nearest = min([nearest or found[0], *found], key=lambda c: (off(c), c.skew))
    o, i, a, b, k = nearest
    crop = None if (o, i) == (out_features, in_features) else (out_features, in_features)
    units = (1,) * k
    return MPO(order=k + 2, modes=((a, *units, o // a), (b, *units, i // b)), crop=crop)


def expansions(
    model: Any,
    sites: Iterable[str],
    growth: float | None = None,
    to_params: int | None = None,
    cores: int | None = None,
) -> Plan:
    """The plan that makes the chosen sites `growth` times as large, or the model `to_params`.

    Raises Usage for a size below that of the model, or where the shapes miss it by more than 8 %.
    """
    roles = linears(model, sites)
    shapes = {site: shape(model.base_model.get_submodule(site)) for site in roles}
    dense, total = sum(o * i for o, i in shapes.values()), count_parameters(model)
    if to_params is not None:
        growth = 1 + (to_params - total) / dense
        if growth <= 1:
            raise Usage(f"{to_params:,} parameters are not above the {total:,} of the model")
    plan = {site: expansion(o, i, growth, cores) for site, (o, i) in shapes.items()}
    met = sum(made.parameters(*shapes[site]) for site, made in plan.items())
    wanted, got = (to_params, total - dense + met) if to_params else (growth * dense, met)
    if abs(got - wanted) > CLOSE * wanted:
        raise Usage(
            f"the shapes give {got:,.0f} parameters, not within 8 % of {wanted:,.0f}: give another "
            "number of --cores"
        )
    return plan


def linears(model: Any, sites: Iterable[str]) -> dict[str, str]:
    """{site: role} of the sites that are named. Raises Usage for those that exact cores cannot
    hold."""
    roles = select(model, sites)
    if tables := [site for site, role in roles.items() if role == "embedding"]:
        raise Usage(
            f"--sites names {tables[0]}, and an embedding cannot be over-parameterized: name "
            "attention, ffn, or globs"
        )
    if model.dtype.itemsize < 4:
        kept = str(model.dtype).removeprefix("torch.")
        raise Usage(
            f"cores of {kept} do not give back the weights of {kept} that they are made from: "
            "over-parameterize with --dtype float32 (finetune --precision bf16 is mixed precision)"
        )
    return roles


def overparam(
    model: Any,
    growth: float | None = None,
    to_params: int | None = None,
    sites: Iterable[str] = ("attention", "ffn"),
    cores: int | None = None,
) -> Any:
    """Hold linears of a model as an exact MPO of a wanted size, in place; returns the model.

    Give one of `growth` (parameters of the sites, after / before) and `to_params` (parameters of
    the whole model). Other arguments, and what it raises, are those of `expansions`. The inverse is
    `tlmtool.merge`.
    """
    factorize(model, expansions(model, sites, growth, to_params, cores))
    return adopt(model)


def predicted(
    model: Any, plan: Plan, batch: int = 32, length: int = 128, share: float = 1.0
) -> Step:
    """What training a dense model costs with and without a plan: parameters, the bytes of AdamW's
    two float32 moments of each, and the FLOPs of a step. A step costs three forward passes, and
    three rebuilds of each W whatever the batch. `share`: the part of the tokens that the head gets.
    """
    length = min(length, position_limit(model) or length)
    parameters, flops = count_parameters(model), 3 * forward_flops(model, length, batch)["total"]
    if share < 1:
        body = 3 * forward_flops(model.base_model, length, batch)["total"]
        flops = round(body + share * (flops - body))
    more = rebuilt = 0
    for site, made in plan.items():
        o, i = shape(model.base_model.get_submodule(site))
        more += made.parameters(o, i) - o * i
        rebuilt += 3 * made.rebuild_flops(o, i)
    given = f", {share:.0%} of which the head is given" if share < 1 else ""
    note = f"a step of {batch} x {length} tokens{given}, forward and backward; predicted"
    return Step(
        note=note,
        parameters=Ends(before=parameters, after=parameters + more),
        optimizer_bytes=Ends(before=8 * parameters, after=8 * (parameters + more)),
        step_flops=Ends(before=flops, after=flops + rebuilt),
    )


def records(model: Any, plan: Plan) -> tuple[Larger, ...]:
    """Each site of a plan of a dense model, and how large it gets."""
    roles, found = sites(model), []
    for site, made in plan.items():
        o, i = shape(model.base_model.get_submodule(site))
        growth, settings = made.parameters(o, i) / (o * i), made.to_dict()
        found.append(Larger(site=site, role=roles[site], decomposition=settings, growth=growth))
    return tuple(found)


def _sizes(o: int, i: int) -> Iterable[tuple[int, int]]:
    """(O, I), and then padded sizes, those with the least padding first."""
    yield o, i
    padded = [(x, y) for x in islice(count(o), PADDED) for y in islice(count(i), PADDED)]
    yield from sorted(padded, key=lambda size: size[0] * size[1])[1:]


def _candidates(o: int, i: int, k: int) -> Iterator[Candidate]:
    outs, ins = ([d for d in range(1, n + 1) if n % d == 0] for n in (o, i))
    return (Candidate(o, i, a, b, k) for a in outs for b in ins)
