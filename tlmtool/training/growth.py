"""Which exact MPO makes a weight so many times as large: end factors by search, unit cores."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
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
from tlmtool.report.parts._pieces import Ends
from tlmtool.report.parts.step import Larger, Step

CLOSE = 0.08  # of the growth: candidates as near as this compete by cost; others are padded
PADDED = 9  # sizes tried for a weight whose own divisors do not serve


class Candidate(NamedTuple):
    """Sizes (O, I), perhaps padded, the first factors (i1, j1) of both, k unit cores."""

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
    """Most unit cores of a chain whose number is not given: deep chains are cheap to rebuild, but
    each core adds to how far a step moves W."""
    return max(3, ceil(2 * (growth - 1)))


@lru_cache
def expansion(out_features: int, in_features: int, growth: float, cores: int | None = None) -> MPO:
    """The exact MPO of a weight (O, I) with `growth` times its parameters, as near as can be.

    Two end factors (i1, j1), (i2, j2) and k unit cores (R, R) between them, R = min(i1 j1, i2 j2):
    O I + (k + 1) R^2 parameters, and (k + 1) R^3 multiply-adds to rebuild. `cores` is k + 2;
    without it, the cheapest within 8 % of the growth. Where the divisors of O and I bring nothing
    as near, the weight is padded. Raises Usage for a growth of at most 1, or above k + 2.
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

    Raises Usage for a size that the shapes do not come within 8 % of, or below the model's own.
    """
    roles = linears(model, sites)
    shapes = {site: shape(model.base_model.get_submodule(site)) for site in roles}
    dense, total = sum(o * i for o, i in shapes.values()), count_parameters(model)
    if to_params is not None:
        growth = 1 + (to_params - total) / dense
        if growth <= 1:
            raise Usage(f"{to_params:,} parameters are not above the {total:,} of the model")
    plan = {site: expansion(o, i, growth, cores) for site, (o, i) in shapes.items()}
    met = sum(form.parameters(*shapes[site]) for site, form in plan.items())
    wanted, got = (to_params, total - dense + met) if to_params else (growth * dense, met)
    if abs(got - wanted) > CLOSE * wanted:
        raise Usage(
            f"the shapes give {got:,.0f} parameters, not within 8 % of {wanted:,.0f}: give another "
            "number of --cores"
        )
    return plan


def linears(model: Any, sites: Iterable[str]) -> dict[str, str]:
    """{site: role} of what is named; raises Usage for what cannot be held as exact cores."""
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
    """Hold linears of a model as exact MPO of a wanted size, in place; the model.

    Of `growth` (sites' parameters, after / before) and `to_params` (of the whole model) one is
    given; the rest, and what it raises, as in `expansions`. `tlmtool.merge` brings it back.
    """
    factorize(model, expansions(model, sites, growth, to_params, cores))
    return adopt(model)


def predicted(
    model: Any, plan: Plan, batch: int = 32, length: int = 128, share: float = 1.0
) -> Step:
    """What training costs with and without a plan: parameters, AdamW's two float32 moments of
    each, FLOPs of a step (three forward passes; three rebuilds of each W, whatever the batch).

    `model` is dense. `share`: of the tokens, which its head is given."""
    length = min(length, position_limit(model) or length)
    parameters, flops = count_parameters(model), 3 * forward_flops(model, length, batch)["total"]
    if share < 1:
        body = 3 * forward_flops(model.base_model, length, batch)["total"]
        flops = round(body + share * (flops - body))
    more = rebuilt = 0
    for site, form in plan.items():
        o, i = shape(model.base_model.get_submodule(site))
        more += form.parameters(o, i) - o * i
        rebuilt += 3 * form.rebuild_flops(o, i)
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
    for site, form in plan.items():
        o, i = shape(model.base_model.get_submodule(site))
        growth = form.parameters(o, i) / (o * i)
        made = form.to_dict()
        found.append(Larger(site=site, role=roles[site], decomposition=made, growth=growth))
    return tuple(found)


def _sizes(o: int, i: int) -> Iterable[tuple[int, int]]:
    """(O, I), then these padded up to sizes with more and more divisors, least padding first."""
    yield o, i
    padded = [(x, y) for x in islice(count(o), PADDED) for y in islice(count(i), PADDED)]
    yield from sorted(padded, key=lambda size: size[0] * size[1])[1:]


def _candidates(o: int, i: int, k: int) -> Iterator[Candidate]:
    outs, ins = ([d for d in range(1, n + 1) if n % d == 0] for n in (o, i))
    return (Candidate(o, i, a, b, k) for a in outs for b in ins)
