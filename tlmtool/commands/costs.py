"""Parameters, FLOPs and bytes of a model before and after a change."""

from collections.abc import Iterable
from typing import Any

from tlmtool.failure import Failure, NotLoadable
from tlmtool.measuring.counting import CONVENTION, count_bytes, count_parameters, forward_flops
from tlmtool.measuring.inputs import named
from tlmtool.measuring.outputs import position_limit
from tlmtool.models.factorized import shape
from tlmtool.models.surgery import plan_of, sites

LENGTH = 128  # tokens of the forward pass whose FLOPs a report counts


class Costs:
    """Parameters and FLOPs of a model before a change, and beside them those after it, at the same
    length: `longest` is what the model will take after the change.

    Raises NotLoadable for a model that cannot run: its config is not one that ever ran.
    """

    def __init__(self, model: Any, longest: int | None = None):
        self.longest = min(LENGTH, longest or LENGTH)
        try:
            self.before = self._counted(model)
        except Failure:
            raise
        except Exception as error:  # whatever a family's own code says
            name, first = named(model), (str(error).splitlines() or [type(error).__name__])[0]
            raise NotLoadable(f"{name} cannot run with its config.json: {first}") from error

    def _counted(self, model: Any) -> dict[str, Any]:
        base, held = model.base_model, plan_of(model)
        parameters = {}
        for site, role in sites(model).items():
            o, i = shape(base.get_submodule(site))
            size = held[site].parameters(o, i) if site in held else o * i
            parameters[site] = (role, size)
        length = min(self.longest, position_limit(model) or LENGTH)
        flops = forward_flops(model, length, 1, sites(model))
        return {
            "total": count_parameters(model),
            "bytes": count_bytes(model),
            "sites": parameters,
            "flops": flops["total"],
            "length": length,
        }

    def and_after(self, model: Any, chosen: Iterable[str] | None = None) -> dict[str, Any]:
        """The parts `parameters` and `flops` of a report; of `chosen` sites the share kept."""
        before, after = self.before, self._counted(model)
        parameters: dict[str, Any] = {"before": before["total"], "after": after["total"]}
        if chosen is not None:
            by_role: dict[str, dict[str, int]] = {}
            for site in chosen:
                role, size = before["sites"][site]
                part = by_role.setdefault(role, {"sites": 0, "before": 0, "after": 0})
                part["sites"] += 1
                part["before"] += size
                part["after"] += after["sites"][site][1]
            held, left = (sum(p[k] for p in by_role.values()) for k in ("before", "after"))
            share = "growth" if left > held else "keep"
            parameters |= {"sites_before": held, "sites_after": left, share: left / held}
            parameters["by_role"] = by_role
        flops = {"note": f"one forward pass of {before['length']} tokens; {CONVENTION}"}
        return {
            "parameters": parameters,
            "flops": flops | {"before": before["flops"], "after": after["flops"]},
            "bytes": {"before": before["bytes"], "after": after["bytes"]},
        }
