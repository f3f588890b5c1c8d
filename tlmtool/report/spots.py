"""Quality against size: a point for each result, with the front of those that are best."""

from collections.abc import Iterator
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

from tlmtool.report.cells import SIZES, title_of
from tlmtool.report.picture import COLOURS, INK, Picture, brief
from tlmtool.report.rows import Row


class Spot(NamedTuple):
    """A result as a point: bytes, quality, name. `known`: the dense model, perhaps in few bits."""

    bytes: float
    value: float
    name: str
    known: bool


def sizes(rows: list[Row], known: list[Row]) -> Iterator[Picture]:
    """Quality against bytes, a picture for each figure of quality that two points have."""
    every = [*known, *rows]
    keys = dict.fromkeys(k for row in every for k in row.cells if k not in SIZES)
    for key in keys:
        held = [row for row in every if key in row.cells and "bytes" in row.cells]
        if len(held) < 2 or (key == "loss" and "perplexity" in keys):
            continue
        spots = [_spot(row, key) for row in held]
        better = held[0].cells[key].better
        caption = f"{title_of(key)} ({better} is better) against the bytes of the weights. "
        caption += "Ringed: no other result is both smaller and better. "
        caption += "Squares: the dense model, also in few bits."
        yield Picture(
            f"{title_of(key)} against size",
            caption,
            partial(_spots, spots=spots, better=better, key=key),
        )


def _spot(row: Row, key: str) -> Spot:
    name, known = row.label or row.name, row.known or row.verb == "quantize"
    return Spot(row.cells["bytes"].value, row.cells[key].value, name, known)


def front_of(spots: list[Spot], better: str) -> list[Spot]:
    """The points of which no other is as small and as good, by size."""
    sign = -1 if better == "higher" else 1
    found: list[Spot] = []
    there = [spot for spot in spots if isfinite(spot.value)]  # a broken model is on no front
    for spot in sorted(there, key=lambda s: (s.bytes, sign * s.value)):
        if not found or sign * spot.value < sign * found[-1].value:
            found.append(spot)
    return found


def _spots(axes: Any, spots: list[Spot], better: str, key: str) -> None:
    from matplotlib.ticker import EngFormatter

    best = front_of(spots, better)
    axes.plot(
        [s.bytes for s in best], [s.value for s in best], color=COLOURS[0], linewidth=1.2, alpha=0.7
    )
    middle = sum(f(s.bytes for s in spots) for f in (min, max)) / 2
    at: dict[tuple[float, float], list[str]] = {}  # equal results share a place and a text
    for spot in spots:
        at.setdefault((spot.bytes, spot.value), []).append(brief(spot.name))
        colour = COLOURS[1] if spot.known else COLOURS[0]
        ring = {"markeredgecolor": INK, "markeredgewidth": 1.3} if spot in best else {}
        axes.plot(
            spot.bytes, spot.value, "s" if spot.known else "o", color=colour, markersize=6, **ring
        )
    for place, names in at.items():
        right = place[0] > middle  # its name stands to the left of it
        axes.annotate(
            ", ".join(dict.fromkeys(names)),
            place,
            xytext=(-6 if right else 6, 5),
            ha="right" if right else "left",
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(xlabel="bytes of the weights", ylabel=f"{title_of(key)} ({better} is better)")
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.margins(x=0.2, y=0.15)
