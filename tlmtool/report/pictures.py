"""Every picture of results side by side."""

from collections.abc import Iterable, Iterator, Sized
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tlmtool.report import plots
from tlmtool.report.arms import means, varied
from tlmtool.report.before import references
from tlmtool.report.card import PICTURE
from tlmtool.report.cells import title_of
from tlmtool.report.figures import layer, words
from tlmtool.report.parts.complexity import QUANTITIES, Complexity
from tlmtool.report.parts.recovery import Recovery
from tlmtool.report.parts.sites import Sites
from tlmtool.report.parts.training import Training
from tlmtool.report.picture import COLOURS, MOST, Picture, brief, style, together
from tlmtool.report.report import Report
from tlmtool.report.rows import Row, each_report, rows_of
from tlmtool.report.spots import sizes

BARS = 24  # of one picture; more could not be read
MOST_OF_CARD = 2  # pictures side by side; more would be too small to read in a card


def pictures_of(rows: list[Row], known: Iterable[Row] = ()) -> list[Picture]:
    """Every picture that these results have figures for."""
    known = list(known)
    own = (sizes(rows, known), means(rows), varied(rows), _courses(rows), _errors(rows))
    return [picture for each in (*own, _growth(rows), _costs(rows)) for picture in each]


def draw_card(report: Report, folder: Path) -> set[str]:
    """Draw the picture of a checkpoint's card: its quality against its size, its errors, and its
    training. Returns the names of the files written; none without matplotlib or such figures."""
    if not plots.drawable():
        return set()
    rows = rows_of("this model", report)
    found = [*sizes(rows, references(rows)), *_errors(rows), *_courses(rows)]
    if found:
        (folder / PICTURE).write_bytes(together(found[:MOST_OF_CARD]))
    return {PICTURE} if found else set()


def _courses(rows: list[Row]) -> Iterator[Picture]:
    """The loss on the way of each training and recovery."""
    lines, joined = dict[str, list[tuple[int, float]]](), [row for row in rows if row.seeds]
    for row in [*joined, *each_report([row for row in rows if not row.seeds])]:
        several = [_course(each.report) for each in row.seeds or (row,)]
        steps = [step for step in several[0] if all(step in each for each in several)]
        if len(steps) > 1:
            lines[row.name] = [(step, fmean(each[step] for each in several)) for step in steps]
    if lines:
        over = " Of several seeds it is the mean." if joined else ""
        caption = f"The training loss: mean since the point before.{over}{_more(lines)}"
        yield Picture(
            "loss on the way",
            caption,
            partial(_plot, lines=lines, x="step", y="loss"),
        )


def _growth(rows: list[Row]) -> Iterator[Picture]:
    """What attention kernels alone cost as the text grows."""
    held = [row for row in each_report(rows) if row.report and row.report.part(Complexity)]
    for row in held:
        if row.report and (part := row.report.part(Complexity)):
            whose = f", {row.name.rpartition(': ')[0]}" if len(held) > 1 else ""
            for key, quantity in QUANTITIES.items():
                if any(quantity.of(run) for each in part.kernels.values() for run in each.runs):
                    title = f"{quantity.title}, {'causal' if part.causal else 'both ways'}{whose}"
                    caption = f"Attention alone: {part.called()}. Lines are fitted power laws."
                    yield Picture(title, caption, partial(plots.panel, found=part, key=key))


def _course(report: Report | None) -> dict[int, float]:
    """{step: training loss}"""
    training = report.part(Training) if report else None
    recovery = report.part(Recovery) if report else None
    points = training.history if training else recovery.course if recovery else ()
    return {each.step: each.loss for each in points}


def _errors(rows: list[Row]) -> Iterator[Picture]:
    """The error of each layer's output, a picture for each role."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    drawn = set[tuple[tuple[str, float], ...]]()
    for row in each_report(rows):
        assert row.report is not None
        part = row.report.part(Sites)
        errors = [
            (site, site.weight_error if site.output_error is None else site.output_error)
            for site in (part.sites if part else ())
        ]
        mark = tuple((site.site, round(error, 3)) for site, error in errors)
        if mark in drawn:  # the same layers, of which one result was trained afterwards
            continue
        drawn.add(mark)
        for site, error in errors:
            side, _, place = layer(site.site).rpartition(" ")
            if place.isdigit():
                found.setdefault(f"{side} {site.role}".strip(), {}).setdefault(row.name, []).append(
                    (int(place), error)
                )
    if len(names := {name for lines in found.values() for name in lines}) == 1:
        (name,) = names
        roles = {words(role): lines[name] for role, lines in found.items()}
        caption = "Relative error of each layer, of its output on the calibration text where that "
        caption += "was measured, else of the weight; before a recovery. Other layers are dense."
        draw = partial(_plot, lines=roles, x="layer", y="relative error", whole=True)
        yield Picture("error by layer", caption, draw)
        return
    for role, lines in found.items():
        caption = f"Relative error of {words(role)}, of its output on the calibration text where "
        caption += (
            "that was measured, else of the weight; before a recovery. Other layers are dense."
        ) + _more(lines)
        yield Picture(
            f"error of {words(role)} by layer",
            caption,
            partial(_plot, lines=lines, x="layer", y="relative error", whole=True),
        )


def _more(lines: Sized) -> str:
    return f" The first {MOST} of {len(lines)} results." if len(lines) > MOST else ""


def _plot(
    axes: Any, lines: dict[str, list[tuple[int, float]]], x: str, y: str, whole: bool = False
) -> None:
    """A line for each result."""
    from matplotlib.ticker import MaxNLocator

    names = brief(lines)
    for place, (name, points) in enumerate(list(lines.items())[:MOST]):
        axes.plot(*zip(*sorted(points), strict=True), label=names[name], **style(place))
    axes.set(xlabel=x, ylabel=y)
    places = sorted({place for points in lines.values() for place, _ in points})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    room = 0.15 + 0.08 * -(-len(lines) // 2)  # above the points, for the legend
    bottom, top = axes.get_ylim()
    if whole:
        top = max(y for points in lines.values() for _, y in points)
        axes.set_ylim(0, top * (1 + room) or 1)
        axes.set_xticks(places[:: -(-len(places) // 12)])
    elif len(lines) > 1:
        axes.set_ylim(bottom, top + (top - bottom) * room)
    if len(lines) > 1:
        axes.legend(frameon=False, ncols=2, loc="upper center")


def _costs(rows: list[Row]) -> Iterator[Picture]:
    """Bars of time and of memory."""
    what = {"seconds": "Time of", "memory": "Peak memory of", "latency": "Median time of"}
    for key, unit, scale in (("seconds", "s", 1), ("memory", "B", 1), ("latency", "s", 1e-3)):
        groups: dict[str, list[tuple[str, float]]] = {}
        for row in (row for row in rows if key in row.cells):
            cell = row.cells[key]
            groups.setdefault(cell.unit, []).append((row.name, cell.value * scale))
        for of, held in groups.items():
            if len(held) > 1:
                caption = f"{what[key]} {of}".strip() + "."
                if len(held) > BARS:
                    caption += f" The first {BARS} of {len(held)} results."
                title = f"{title_of(key)}, {of}" if len(groups) > 1 else title_of(key)
                yield Picture(title, caption, partial(_bars, held=held[:BARS], unit=unit))


def _bars(axes: Any, held: list[tuple[str, float]], unit: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    names = brief(name for name, _ in held)
    places = range(len(held))
    axes.barh(places, [value for _, value in held], color=COLOURS[0], height=0.6)
    axes.set_yticks(places, [names[name] for name, _ in held])
    axes.set_ylim(max(len(held), 4) - 0.5, -0.5)  # few bars stay thin
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(unit))
