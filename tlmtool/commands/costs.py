"""Parameters, FLOPs and bytes of a model before and after a change."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tlmtool.failure import Failure, NotLoadable
from tlmtool.measuring.counting import CONVENTION, count_bytes, count_parameters, forward_flops
from tlmtool.measuring.inputs import name_of
from tlmtool.measuring.outputs import position_limit
from tlmtool.models.factorized import shape
from tlmtool.models.surgery import plan_of, sites
from tlmtool.report.layout import Part
from tlmtool.report.parts.costs import Flops, Parameters, RoleSize, WeightBytes

LENGTH = 128  # tokens of the pass whose FLOPs are counted; more tokens, more FLOPs


@dataclass(frozen=True)
class _Counted:
    """The size and cost of a model.

    `sites`: {site: (role, its parameters)}; `length`: tokens of the pass whose FLOPs are counted,
    in all and by part.
    """

    total: int
    bytes: int
    sites: dict[str, tuple[str, int]]
    flops: int
    length: int
    parts: dict[str, int]


class Costs:
    """The costs of a model before a change, and later those after it.

    `longest`: the most tokens that the model will take after the change, so that both are counted
    at one length. Raises NotLoadable for a model that cannot run with its config.
    """

    def __init__(self, model: Any, longest: int | None = None):
        self.longest = min(LENGTH, longest or LENGTH)
        try:
            self.before = self._counted(model)
        except Failure:
            raise
        except Exception as error:  # a model's own code raises errors of many kinds
            name, first = name_of(model), (str(error).splitlines() or [type(error).__name__])[0]
            raise NotLoadable(f"{name} cannot run with its config.json: {first}") from error

    def _counted(self, model: Any) -> _Counted:
        base, held = model.base_model, plan_of(model)
        parameters = {}
        for site, role in sites(model).items():
            o, i = shape(base.get_submodule(site))
            size = held[site].parameters(o, i) if site in held else o * i
            parameters[site] = (role, size)
        length = min(self.longest, position_limit(model) or LENGTH)
        flops = forward_flops(model, length, 1, sites(model))
        size = count_parameters(model), count_bytes(model)
        return _Counted(*size, parameters, flops["total"], length, flops["by_part"])

    def and_after(
        self, model: Any, chosen: Iterable[str] | None = None, note: str = ""
    ) -> list[Part]:
        """The parts on parameters, FLOPs and bytes. With `chosen` sites they also say what share of
        their parameters is kept. `note` is added to the note on FLOPs."""
        before, after = self.before, self._counted(model)
        told = f"one forward pass of {before.length} tokens; {CONVENTION}{note}"
        more = {} if chosen is None else _of_sites(before, after, chosen)
        return [
            Parameters(before=before.total, after=after.total, **more),
            Flops(note=told, before=before.flops, after=after.flops),
            WeightBytes(before=before.bytes, after=after.bytes),
        ]


def _of_sites(before: _Counted, after: _Counted, chosen: Iterable[str]) -> dict[str, Any]:
    """What the part `parameters` says of the chosen sites."""
    sizes: dict[str, list[tuple[int, int]]] = {}
    for site in chosen:
        role, size = before.sites[site]
        sizes.setdefault(role, []).append((size, after.sites[site][1]))
    by_role = {}
    for role, each in sizes.items():
        held, left = (sum(size) for size in zip(*each, strict=True))
        by_role[role] = RoleSize(sites=len(each), before=held, after=left)
    held, left = (sum(getattr(e, end) for e in by_role.values()) for end in ("before", "after"))
    share = {"growth" if left > held else "keep": left / held, "sites_share": held / before.total}
    return {"sites_before": held, "sites_after": left, "by_role": by_role} | share
