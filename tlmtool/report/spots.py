"""Quality against size: a point for each result, with the front of those that are best."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

from tlmtool.report.cells import SIZES, title_of
from tlmtool.report.picture import COLOURS, INK, Picture, brief
from tlmtool.report.rows import Row

COUNTED = ("loss", "nll", "perplexity", "feature_error")  # compared among models of one base alone


class Spot(NamedTuple):
    """A result as a point: bytes, quality, name. `known`: the dense model, perhaps in few bits."""

    bytes: float
    value: float
    name: str
    known: bool


def sizes(rows: list[Row], known: list[Row]) -> Iterator[Picture]:
    """Quality against bytes, a picture for each figure of quality that two points have. Only what
    was measured on the same examples is in one picture, and losses of models of one base alone."""
    every = [*known, *rows]
    keys = dict.fromkeys(k for row in every for k in row.cells if k not in SIZES)
    for key in keys:
        held = [row for row in every if key in row.cells and "bytes" in row.cells]
        if key == "loss":  # the perplexity says the same
            held = [row for row in held if "perplexity" not in row.cells]
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in held:
            groups.setdefault(_group(row, key), []).append(row)
        drawn = [group for group in groups.values() if len(group) > 1]
        for place, group in enumerate(drawn):
            more = f" ({place + 1} of {len(drawn)})" if len(drawn) > 1 else ""
            yield _picture(group, key, [row for row in held if row not in group], more)


def _group(row: Row, key: str) -> tuple[str, str]:
    """What must be the same for two points to stand on one front: the examples, and of a loss the
    base, since others may read other tokens."""
    return row.cells[key].mark, row.base if key.rpartition(".")[2] in COUNTED else ""


def _picture(held: list[Row], key: str, others: list[Row], more: str) -> Picture:
    better, marked = held[0].cells[key].better, bool(held[0].cells[key].mark)
    caption = f"{title_of(key)} ({better} is better) against the bytes of the weights. "
    if marked:
        caption += "Ringed: no other result is both smaller and better. "
    else:
        caption += "No front: the reports do not tell on what these were measured. "
    caption += "Squares: the dense model, also in few bits."
    if others:
        names = "; ".join(row.name for row in others)
        caption += f" Not here, because measured on other examples or of another model: {names}."
    labels = Counter(row.label for row in held)  # those of several searches may be alike
    spots = [_spot(row, key, row.label if labels[row.label] == 1 else "") for row in held]
    draw = partial(_spots, spots=spots, better=better, key=key, front=marked)
    return Picture(f"{title_of(key)} against size{more}", caption, draw)


def _spot(row: Row, key: str, label: str) -> Spot:
    return Spot(row.cells["bytes"].value, row.cells[key].value, label or row.name, row.dense)


def front_of(spots: list[Spot], better: str) -> list[Spot]:
    """The points of which no other is as small and as good, by size."""
    sign = -1 if better == "higher" else 1
    found: list[Spot] = []
    there = [spot for spot in spots if isfinite(spot.value)]  # a broken model is on no front
    for spot in sorted(there, key=lambda s: (s.bytes, sign * s.value)):
        if not found or sign * spot.value < sign * found[-1].value:
            found.append(spot)
    return found


def _spots(axes: Any, spots: list[Spot], better: str, key: str, front: bool = True) -> None:
    from matplotlib.ticker import EngFormatter

    best = front_of(spots, better) if front else []
    names = brief(spot.name for spot in spots)
    axes.plot(
        [s.bytes for s in best], [s.value for s in best], color=COLOURS[0], linewidth=1.2, alpha=0.7
    )
    middle = sum(f(s.bytes for s in spots) for f in (min, max)) / 2
    at: dict[tuple[float, float], list[str]] = {}  # equal results share a place and a text
    for spot in spots:
        at.setdefault((spot.bytes, spot.value), []).append(names[spot.name])
        colour = COLOURS[1] if spot.known else COLOURS[0]
        ring = {"markeredgecolor": INK, "markeredgewidth": 1.3} if spot in best else {}
        axes.plot(
            spot.bytes, spot.value, "s" if spot.known else "o", color=colour, markersize=6, **ring
        )
    for place, told in at.items():
        right = place[0] > middle  # its name stands to the left of it
        axes.annotate(
            ", ".join(dict.fromkeys(told)),
            place,
            xytext=(-6 if right else 6, 5),
            ha="right" if right else "left",
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(xlabel="bytes of the weights", ylabel=f"{title_of(key)} ({better} is better)")
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.margins(x=0.2, y=0.15)
