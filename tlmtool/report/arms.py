"""Pictures of studies and trainings: the score of each arm, and against what was varied."""

from collections.abc import Iterator
from functools import partial
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from tlmtool.report.cells import title_of
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.study import Study
from tlmtool.report.parts.training import Scores, Training
from tlmtool.report.picture import COLOURS, MOST, Picture, brief, style
from tlmtool.report.rows import Row, each_report

VARIED = {  # what a study or a training may differ in: its key in recipes
    "lr": "training.lr",
    "N": "strategy.N",
    "n": "strategy.n",
    "growth": "strategy.growth",
}
Points = dict[float, list[float]]  # {place on the x axis: a score of each seed}


def varied(rows: list[Row]) -> Iterator[Picture]:
    """The score against each setting that differs between the trainings, a line an arm."""
    runs = [run for row in each_report(rows) for run in _runs(row)]
    kinds = dict.fromkeys((run["metric"], run["task"]) for run in runs)
    for metric, task in kinds:
        own = [run for run in runs if (run["metric"], run["task"]) == (metric, task)]
        differs = [n for n in VARIED if len({run[n] for run in own if run[n] is not None}) > 1]
        for name in differs:
            lines = _lines(own, name, [each for each in differs if each != name])
            if not lines:
                continue
            caption = (
                f"{metric} of {task} against {name}, a line an arm: mean over seeds, with its "
            )
            caption += "95 % t interval where there are two or more."
            yield Picture(
                f"{metric} against {'rate' if name == 'lr' else name}",
                caption,
                partial(_arms, lines=lines, name=name, metric=metric),
            )


def means(rows: list[Row]) -> Iterator[Picture]:
    """The mean of each arm over seeds, a picture for each metric."""
    keys = dict.fromkeys(k for row in rows for k, cell in row.cells.items() if cell.seeds)
    for key in keys:
        held = [
            (row.name, [*cell.seeds.values()])
            for row in rows
            if (cell := row.cells.get(key)) and cell.seeds
        ]
        if len(held) > 1:
            caption = f"{title_of(key)}: mean over seeds with its 95 % t interval, and each seed."
            yield Picture(
                f"{title_of(key)} of each arm",
                caption,
                partial(_dots, held=held),
            )


def _dots(axes: Any, held: list[tuple[str, list[float]]]) -> None:
    for place, (_, scores) in enumerate(held):
        axes.plot(scores, [place] * len(scores), ".", color=COLOURS[1], alpha=0.7)
        axes.errorbar(
            fmean(scores), place, xerr=half_width(scores), fmt="o", color=COLOURS[0], capsize=3
        )
    axes.set_yticks(range(len(held)), [brief(name) for name, _ in held])
    axes.margins(y=0.2)
    axes.invert_yaxis()


def _runs(row: Row) -> Iterator[dict[str, Any]]:
    """Each training of a report: its arm, seed, score, and what may vary."""
    report = row.report
    assert report is not None
    ending = report.part(Ending)
    recipe = ending.recipe if ending else {}
    base = {name: _at(recipe, path) for name, path in VARIED.items()}
    base |= {"task": _at(recipe, "training.task") or "distillation"}
    scores, training = report.part(Scores), report.part(Training)
    if study := report.part(Study):
        rated = len(study.rates) > 1
        for each in (*study.results, *study.rates):
            trial = each.arm is None
            own = base | ({"N": None, "n": None, "growth": None} if trial else {})
            arm = "dense, trials of the rate" if trial else str(each.arm)
            if arm.startswith("dense"):
                own |= {"N": None, "n": None, "growth": None}
            lr = each.lr if trial or not rated else None
            yield own | {"arm": arm, "metric": each.metric, "score": each.score, "lr": lr}
    elif scores and training:
        own = base if training.strategy != "none" else base | dict.fromkeys(("N", "n", "growth"))
        yield own | {"arm": training.strategy, "metric": scores.name, "score": scores.after.score}


def _at(recipe: Any, path: str) -> Any:
    for key in path.split("."):
        recipe = recipe.get(key) if isinstance(recipe, dict) else None
    return recipe


def _lines(runs: list[dict[str, Any]], name: str, others: list[str]) -> dict[str, Points]:
    """{arm, with what else differs: its points}; only arms with two places or more."""
    found: dict[str, Points] = {}
    for run in runs:
        if run[name] is None:
            continue
        more = [f"{other} {run[other]:g}" for other in others if run[other] is not None]
        line = found.setdefault(", ".join([run["arm"], *more]), {})
        line.setdefault(float(run[name]), []).append(run["score"])
    return {arm: points for arm, points in found.items() if len(points) > 1}


def _arms(axes: Any, lines: dict[str, Points], name: str, metric: str) -> None:
    for place, (arm, points) in enumerate(list(lines.items())[:MOST]):
        xs = sorted(points)
        means = [fmean(points[x]) for x in xs]
        halves = [half_width(points[x]) for x in xs]
        axes.errorbar(xs, means, yerr=halves, label=arm, capsize=3, **style(place))
    axes.set(xlabel="learning rate" if name == "lr" else name, ylabel=metric)
    if name == "lr":
        axes.set_xscale("log")
    axes.legend(frameon=False)


def half_width(scores: list[float]) -> float:
    """Half the 95 % t interval of a mean; 0 for one score."""
    n = len(scores)
    return float(student.ppf(0.975, n - 1)) * stdev(scores) / n**0.5 if n > 1 else 0.0
