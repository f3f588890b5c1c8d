"""Pictures of studies and trainings: the score of each arm, and against what was varied."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from tlmtool.report.cells import title_of
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.evaluations import short
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.study import Study
from tlmtool.report.parts.training import Scores, Training
from tlmtool.report.picture import COLOURS, DASHES, INK, MOST, Picture, brief, style
from tlmtool.report.rows import Row, each_report

VARIED = {  # what a study or a training may differ in: its key in recipes
    "lr": "training.lr",
    "N": "strategy.N",
    "n": "strategy.n",
    "growth": "strategy.growth",
}
ALIKE = (  # sections and keys of a recipe in which alike trainings may differ
    *("verb", "model", "revision", "seed", "device", "output", "study", "strategy.name"),
    *("training.task", "training.data", "training.resume", "training.tracker"),
    *VARIED.values(),
)
LEGEND = 40  # letters of the name of a line; a longer one would hide the picture
TICKS = 8  # places that are each named on the x axis; more would run into one another
KIND = ("metric", "task", "data", "model")  # runs that differ in these are not drawn together
Points = dict[float, set[tuple[int, float]]]  # {place on the x axis: (seed, score) of each}
Run = dict[str, Any]  # a training: its arm, seed, score, its KIND, what it has of VARIED, and more


def varied(rows: list[Row]) -> Iterator[Picture]:
    """The score against each setting that differs between the trainings, a line an arm."""
    kinds: dict[tuple[str, ...], list[Run]] = {}
    for run in (run for row in each_report(rows) for run in _runs(row)):
        kinds.setdefault(tuple(str(run[key]) for key in KIND), []).append(run)
    for (metric, task, data, model), runs in kinds.items():
        differs = [n for n in VARIED if len({run[n] for run in runs if run[n] is not None}) > 1]
        alike = [kind for kind in kinds if kind[:2] == (metric, task)]
        whose = _told(", ", model, {kind[3] for kind in alike})
        whose += _told(" on ", data, {kind[2] for kind in alike})
        what = f"{task} {metric}" if len(kinds) > 1 else metric
        runs = [run | {"line": _line(run, runs)} for run in runs]
        for name in differs:
            lines = _lines(runs, name, [each for each in differs if each != name])
            level = {} if name == "lr" else _level(runs, differs)
            x = "rate" if name == "lr" else name
            caption = f"{metric} of {task} against {x}, a line an arm: mean over seeds, with "
            caption += "its 95 % t interval where there are two or more."
            if (more := len(lines) - MOST) > 0:
                caption += f" {more} more with the fewest places do not fit in."
            draw = partial(_arms, lines=lines, level=level, x=x, metric=metric)
            yield Picture(f"{what} against {x}{whose}", caption, draw)


def _told(before: str, one: str, every: set[str]) -> str:
    """A model or data in a title, if there are others; by its last part where that is enough."""
    enough = len({short(each) for each in every}) == len(every)
    return "" if len(every) == 1 else before + (short(one) if enough else one)


def means(rows: list[Row]) -> Iterator[Picture]:
    """The mean of each arm over seeds, a picture for each metric."""
    groups: dict[tuple[str, str], list[tuple[str, list[float]]]] = {}
    for row in rows:
        for key, cell in row.cells.items():
            if cell.seeds:
                held = groups.setdefault((key, cell.source), [])
                held.append((row.name, [*cell.seeds.values()]))
    count = Counter(key for (key, _), held in groups.items() if len(held) > 1)
    for (key, source), held in groups.items():
        if len(held) > 1:
            caption = f"{title_of(key)}: mean over seeds with its 95 % t interval, and each seed."
            title = f"{title_of(key)} of each arm" + _told(
                " on ", source, {s for k, s in groups if k == key} if count[key] > 1 else {source}
            )
            yield Picture(title, caption, partial(_dots, held=held))


def _dots(axes: Any, held: list[tuple[str, list[float]]]) -> None:
    for place, (_, scores) in enumerate(held):
        axes.plot(scores, [place] * len(scores), ".", color=COLOURS[1], alpha=0.7)
        axes.errorbar(
            fmean(scores), place, xerr=half_width(scores), fmt="o", color=COLOURS[0], capsize=3
        )
    names = brief(name for name, _ in held)
    axes.set_yticks(range(len(held)), [names[name] for name, _ in held])
    axes.margins(y=0.2)
    axes.invert_yaxis()


def _runs(row: Row) -> Iterator[Run]:
    """Each training of a report."""
    report = row.report
    assert report is not None
    ending, model = report.part(Ending), report.part(Model)
    recipe = ending.recipe if ending else {}
    given = {name: _at(recipe, path) for name, path in VARIED.items()}
    given |= {"task": _at(recipe, "training.task"), "data": _at(recipe, "training.data")}
    given |= {"seed": ending.seed if ending else 0, "model": model.id if model else None}
    more = _settings(recipe)
    given |= {"more": more}
    plain = given | dict.fromkeys(("N", "n", "growth"))  # of trainings that expand nothing
    plain |= {"more": {key: each for key, each in more.items() if not key.startswith("strategy.")}}
    scores, training = report.part(Scores), report.part(Training)
    if study := report.part(Study):
        rate = None if len(study.rates) > 1 else study.lr
        for each in study.results:
            own = plain if str(each.arm).startswith("dense") else given
            own = own | {"arm": each.arm, "seed": each.seed, "lr": rate}
            yield own | {"metric": each.metric, "score": each.score}
        for each in study.rates:
            own = plain | {"arm": "dense, trials of the rate", "lr": each.lr}
            yield own | {"metric": each.metric, "score": each.score}
    elif scores and training:
        own = plain if training.strategy == "none" else given
        yield own | {"arm": training.strategy, "metric": scores.name, "score": scores.after.score}


def _at(recipe: Any, path: str) -> Any:
    for key in path.split("."):
        recipe = recipe.get(key) if isinstance(recipe, dict) else None
    return recipe


def _settings(recipe: dict[str, Any]) -> dict[str, str]:
    """{key: value} of all that makes a training another one, but for VARIED."""
    found = {}
    for section, held in recipe.items():
        for key, value in held.items() if isinstance(held, dict) else [("", held)]:
            path = f"{section}.{key}".rstrip(".")
            if section not in ALIKE and path not in ALIKE:
                found[path] = str(value)
    return found


def _line(run: Run, runs: list[Run]) -> str:
    """The arm of a training, and in what else it differs from others of that arm."""
    same = [each["more"] for each in runs if each["arm"] == run["arm"]]
    paths = dict.fromkeys(path for more in same for path in more)
    differs = [path for path in paths if len({more.get(path) for more in same}) > 1]
    told = [f"{p.rpartition('.')[2]} {run['more'].get(p, 'as usual')}" for p in differs]
    return ", ".join([run["arm"], *told])


def _named(run: Run, others: list[str]) -> str:
    more = [f"{other} {run[other]:g}" for other in others if run[other] is not None]
    return ", ".join([run["line"], *more])


def _lines(runs: list[Run], name: str, others: list[str]) -> dict[str, Points]:
    """{arm, with what else differs: its points}, those with most places first. A training that
    several studies hold counts once."""
    found: dict[str, Points] = {}
    for run in runs:
        if run[name] is not None:
            line = found.setdefault(_named(run, others), {})
            line.setdefault(float(run[name]), set()).add((run["seed"], run["score"]))
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _level(runs: list[Run], others: list[str]) -> dict[str, float]:
    """{arm that expands nothing, with what else differs: its mean over seeds}"""
    found: dict[str, set[tuple[int, float]]] = {}
    for run in runs:
        if run["growth"] is None and "trials" not in run["arm"]:
            found.setdefault(_named(run, others), set()).add((run["seed"], run["score"]))
    return {arm: fmean(score for _, score in held) for arm, held in found.items()}


def _arms(
    axes: Any, lines: dict[str, Points], level: dict[str, float], x: str, metric: str
) -> None:
    names = brief([*lines, *level], LEGEND)
    for place, (arm, points) in enumerate(list(lines.items())[:MOST]):
        held = {at: [score for _, score in scores] for at, scores in sorted(points.items())}
        halves = [half_width(scores) for scores in held.values()]
        middle = [fmean(scores) for scores in held.values()]
        axes.errorbar([*held], middle, yerr=halves, label=names[arm], capsize=3, **style(place))
    for place, (arm, mean) in enumerate(level.items()):
        axes.axhline(
            mean, color=INK, linestyle=DASHES[1 + place % 3], linewidth=1, label=names[arm]
        )
    axes.set(xlabel="learning rate" if x == "rate" else x, ylabel=metric)
    low, high = axes.get_ylim()
    if high - low < 1e-6:  # scores that are equal: their axis would be in units of 1e-17
        axes.set_ylim(low - 0.01, high + 0.01)
    if x == "rate":
        axes.set_xscale("log")
    places = sorted({at for points in lines.values() for at in points})
    if len(places) <= TICKS:
        axes.set_xticks(places, [f"{at:g}" for at in places])
        axes.set_xticks([], minor=True)
    axes.margins(y=0.25)
    axes.legend(frameon=False)


def half_width(scores: list[float]) -> float:
    """Half the 95 % t interval of a mean; 0 for one score."""
    n = len(scores)
    return float(student.ppf(0.975, n - 1)) * stdev(scores) / n**0.5 if n > 1 else 0.0
