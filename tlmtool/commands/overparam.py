"""The verb overparam: Recipe -> Report."""

from dataclasses import replace
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
from tlmtool.report.parts.ending import Predicted
from tlmtool.report.parts.step import Expanded, Larger, Step
from tlmtool.report.report import Report
from tlmtool.training.growth import expansions, predicted, records

REBUILT = ", each W rebuilt from its cores; tlm merge brings back the first"
UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def overparam(recipe: Recipe) -> Report:
    """Hold linear layers as exact MPO of a given size, check the outputs, and write the model."""
    wanted = recipe.overparam
    size = f"growth{wanted.growth:g}" if wanted.growth else wanted.to_params
    out = out_folder(recipe, size)
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe) as run, PeakMemory(checkpoint.device_of(recipe.device)) as memory:
        empty = run.empty(folder)
        plan = expansions(
            empty, wanted.sites, wanted.growth, _number(wanted.to_params), wanted.cores
        )
        step = predicted(empty, plan)
        if recipe.output.dry_run:
            costs, source = Costs(empty), provenance(recipe, folder, empty, None)
            larger = records(empty, plan)
            factorize(empty, plan)
            after = costs.and_after(empty, plan, REBUILT)
            return run.report(
                [source, Predicted(predicted=True), *after, step, Expanded(expanded=larger)]
            )
        run.bars.line(_told(step))
        model = run.load(folder)
        source = provenance(recipe, folder, model, out)
        costs, before = Costs(model), probe(model, recipe.seed)
        with run.stage("expand"):
            larger = _expanded(model, plan)
        adopt(model)
        found = parity(probe(model, recipe.seed), before)
        check(found, f"the larger model differs from {recipe.model}", model)
        after = costs.and_after(model, plan, REBUILT)
    parts = [source, *after, found, step, Expanded(expanded=larger)]
    return run.save(model, folder, out, parts, peak=memory.bytes)


def _told(step: Step) -> str:
    """What training will cost, in one line."""
    flops = step.step_flops
    return (
        f"predicted: {human(step.parameters.after)} parameters, "
        f"{human(step.optimizer_bytes.after, 'B')} of moments of AdamW, "
        f"{human(flops.after, 'FLOPs')} a training step, {flops.after / flops.before:.2f} "
        "times those of the dense model"
    )


def _expanded(model: Any, plan: Plan) -> tuple[Larger, ...]:
    """Factorize each site of the plan; what became of each, with the largest |dW|."""
    found = []
    for entry in records(model, plan):
        site = entry.site
        before = dense_weight(model.base_model.get_submodule(site)).clone()
        factorize(model, {site: plan[site]})
        off = dense_weight(model.base_model.get_submodule(site)) - before
        found.append(replace(entry, max_abs=float(off.abs().max())))
    return tuple(found)


def _number(text: str | None) -> int | None:
    """60M -> 60,000,000"""
    if text is None:
        return None
    unit = UNITS.get(text[-1])
    return round(float(text[:-1]) * unit) if unit else round(float(text))
