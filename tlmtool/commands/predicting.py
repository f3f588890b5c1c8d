"""What the stages of a file will cost, as far as that is known before any of them runs."""

from collections.abc import Iterable
from dataclasses import replace

from tlmtool.commands.performing import check_inputs, perform
from tlmtool.failure import Failure, NotLoadable, first_line
from tlmtool.recipe.output import PREDICTED
from tlmtool.recipe.stages import Stage
from tlmtool.report.parts.costs import Parameters
from tlmtool.report.parts.expected import Costs, Expected
from tlmtool.report.parts.forecast import Forecast
from tlmtool.report.parts.step import Step
from tlmtool.report.parts.study import Cost
from tlmtool.report.report import Report


def predict(stages: Iterable[tuple[str, Stage]], points: bool = False) -> Report:
    """The report of the costs of stages, each under its name in the report. Its `failed` is what
    the run itself would end with because of stages that are refused. `points`: they are those of
    a matrix."""
    stages, refused = [*stages], list[Failure]()
    found = [_expected(name, stage, refused) for name, stage in stages]
    report = Report("run", [Costs(costs=tuple(found))])
    if refused and points:
        report.failed = Failure(f"{len(refused)} of {len(found)} stages will be refused")
    elif refused:  # no stage after the first one would run
        report.failed = refused[0]
    try:
        check_inputs(stage for _, stage in stages)
    except NotLoadable as error:  # the run would not begin
        report.failed = error
    return report


def _expected(name: str, stage: Stage, refused: list[Failure]) -> Expected:
    recipe = stage.recipe
    if recipe.verb not in PREDICTED.split():
        return _unknown(name, recipe.verb, f"tlm {recipe.verb} predicts no cost")
    try:
        report = perform(replace(recipe, output=replace(recipe.output, dry_run=True)))
    except Failure as error:
        why = first_line(error)
        if stage.uses and isinstance(error, NotLoadable):
            why = f"it reads {' and '.join(sorted(stage.uses))}, which must be made first"
        else:
            refused.append(error)
        return _unknown(name, recipe.verb, why)
    forecast, sizes = report.part(Forecast), report.part(Parameters)
    step, study = report.part(Step), report.part(Cost)
    trained = step.step_flops.after * step.steps if step and step.steps else None
    return Expected(
        name=name,
        verb=recipe.verb,
        seconds=forecast and forecast.seconds,
        memory_bytes=forecast and forecast.memory_bytes,
        flops=study.flops if study else trained,
        parameters=sizes and sizes.after,
    )


def _unknown(name: str, verb: str, why: str) -> Expected:
    return Expected(name=name, verb=verb, unknown=why)
