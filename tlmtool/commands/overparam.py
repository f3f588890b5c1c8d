"""The verb overparam: Recipe -> Report."""

from typing import Any

from tlmtool.commands.costs import Costs
from tlmtool.commands.provenance import provenance
from tlmtool.commands.run import Run, out_folder
from tlmtool.measuring.comparison import check, parity, probe
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models import checkpoint
from tlmtool.models.factorized import dense_weight
from tlmtool.models.folder import Folder
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import Plan, factorize
from tlmtool.recipe.building import Recipe
from tlmtool.report.figures import human
from tlmtool.report.report import Report
from tlmtool.training.growth import expansions, predicted, records

UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def overparam(recipe: Recipe) -> Report:
    """Hold linears as exact MPO of a wanted size, check that nothing changed, and write it."""
    wanted = recipe.overparam
    size = f"growth{wanted.growth:g}" if wanted.growth else wanted.to_params
    out = out_folder(recipe, size)
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe) as run, PeakMemory(checkpoint.device_of(recipe.device)) as memory:
        empty = run.empty(folder)
        plan = expansions(
            empty, wanted.sites, wanted.growth, _number(wanted.to_params), wanted.cores
        )
        data: dict[str, Any] = {"step": predicted(empty, plan)}
        if recipe.output.dry_run:
            costs = Costs(empty)
            data |= {"model": provenance(recipe, folder, empty, None), "predicted": True}
            data["expanded"] = records(empty, plan)
            factorize(empty, plan)
            return run.report(data | _costs(costs, empty, plan))
        run.bars.line(_told(data["step"]))
        model = run.load(folder)
        data["model"] = provenance(recipe, folder, model, out)
        costs, before = Costs(model), probe(model, recipe.seed)
        with run.stage("expand"):
            data["expanded"] = _expanded(model, plan)
        adopt(model)
        found = data["parity"] = parity(probe(model, recipe.seed), before)
        check(found, f"the larger model differs from {recipe.model}", model)
        data |= _costs(costs, model, plan)
    data["peak_memory_bytes"] = memory.bytes
    return run.save(model, folder, out, data)


def _costs(costs: Costs, model: Any, plan: Plan) -> dict[str, Any]:
    found = costs.and_after(model, plan)
    found["flops"]["note"] += ", each W rebuilt from its cores; tlm merge brings back the first"
    return found


def _told(step: dict[str, Any]) -> str:
    """What training will cost, in one line."""
    parameters, moments, flops = (
        step[key]["after"] for key in ("parameters", "optimizer_bytes", "step_flops")
    )
    return (
        f"predicted: {human(parameters)} parameters, {human(moments, 'B')} of moments of AdamW, "
        f"{human(flops, 'FLOPs')} a training step, {flops / step['step_flops']['before']:.2f} "
        "times those of the dense model"
    )


def _expanded(model: Any, plan: Plan) -> list[dict[str, Any]]:
    """Factorize; of each site its form, its growth, and the largest |dW|."""
    found = records(model, plan)
    for entry in found:
        site = entry["site"]
        before = dense_weight(model.base_model.get_submodule(site)).clone()
        factorize(model, {site: plan[site]})
        off = dense_weight(model.base_model.get_submodule(site)) - before
        entry["max_abs"] = float(off.abs().max())
    return found


def _number(text: str | None) -> int | None:
    """60M -> 60,000,000"""
    if text is None:
        return None
    unit = UNITS.get(text[-1])
    return round(float(text[:-1]) * unit) if unit else round(float(text))
