"""Pictures of reports, drawn with matplotlib, which the extra `plots` installs."""

import os
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

from tlmtool.failure import MissingDependency, Usage
from tlmtool.files.claims import claim
from tlmtool.files.places import path_of
from tlmtool.files.writing import write_whole
from tlmtool.report.figures import words
from tlmtool.report.parts.complexity import QUANTITIES, Complexity, power
from tlmtool.report.parts.front import INT8, WHOLE, Front, Point

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's
MARKERS = "os^Dvp"
MARK = "drawn by tlm profile --plot"  # in a picture's metadata; without it none is replaced
LARGEST = 2**24  # bytes of a picture in which the mark is looked for
UNITS = {  # of an axis, and the factor from the unit of the report to it
    "flops": ("FLOPs", 1),
    "time": ("s", 1e-3),
    "memory": ("B", 1),
}


def drawable() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def ready(name: str) -> Path:
    """The file of a picture. Raises Usage before any work where it could not be written."""
    if not drawable():
        raise MissingDependency("--plot needs the plots extra: pip install 'tlmtool[plots]'")
    file = path_of(name)
    if os.path.lexists(file) and not file.is_file():
        found = "a folder: name a file in it" if file.is_dir() else "no ordinary file"
        raise Usage(f"--plot {file} is {found}")
    if file.is_file() and not _drawn(file):
        raise Usage(f"--plot {file} exists, and tlm did not draw it: give another file")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise Usage(f"--plot {file} cannot be made: {above} is no folder that can be written to")
    claim(file)
    return file


def complexity(found: Complexity, file: Path) -> None:
    """Draws FLOPs, time and memory against N, with logarithmic axes, and the power law that is
    fitted to each kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    figure.suptitle("Cost of attention kernels alone, as the text grows", fontsize=15)
    for axes, key in zip(figure.subplots(1, len(QUANTITIES)), QUANTITIES, strict=True):
        _panel(axes, found, key)
    fits = "markers: what was counted or measured; lines, and exponents in the legend: power laws"
    fits += " fitted to all lengths"
    exponents = [vars(each.exponents).values() for each in found.kernels.values()]
    known = any(p is not None for each in exponents for p in each)
    caption = (
        f"{found.called()}; time: median of {found.runs} runs in turns",
        fits if known else "",
        _processor(found),
        found.described(),
    )
    figure.supxlabel("\n".join(filter(None, caption)), fontsize=9, color="#444444")
    _write(figure, file)


def front(found: Front, title: str, file: Path) -> None:
    """Draws quality against the bytes of the weights, a point for each budget."""
    from matplotlib.figure import Figure

    points = [each for each in found.points if each.bytes is not None]
    names = {"quality": found.quality, "score": found.metric}
    shown = {
        key: name for key, name in names.items() if any(getattr(p, key) is not None for p in points)
    }
    figure = Figure(figsize=(6.5 * max(1, len(shown)), 4.8), layout="constrained")
    figure.suptitle(title, fontsize=13)
    for axes, (key, name) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0] if shown else (),
        shown.items(),
        strict=True,
    ):
        _against_size(axes, [p for p in points if getattr(p, key) is not None], key)
        better = found.better if key == "score" else "lower"
        axes.set(xlabel="files of weights", ylabel=f"{words(str(name))} ({better} is better)")
    if found.what:
        figure.supxlabel(fill(found.what, 80 * max(1, len(shown))), fontsize=8, color="#444444")
    _write(figure, file)


def _against_size(axes: Any, points: list[Point], key: str) -> None:
    """The points of one panel, joined by a line; with the interval of what is above the dense."""
    from matplotlib.ticker import EngFormatter

    dense = getattr(points[0], key)
    joined = sorted((p.bytes, getattr(p, key)) for p in points if p.budget != INT8)
    axes.plot(*zip(*joined, strict=True), color=COLOURS[0], linewidth=1.2, alpha=0.6)
    for point in points:
        value = getattr(point, key)
        ends = point.interval if key == "quality" else point.score_interval
        above = None
        if ends is not None:
            above = [[max(0.0, value - dense - ends[0])], [max(0.0, ends[1] - value + dense)]]
        colour = COLOURS[point.budget in WHOLE]
        axes.errorbar(point.bytes, value, yerr=above, fmt="o", color=colour, capsize=3)
        axes.annotate(
            point.budget,
            (point.bytes, value),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=9,
        )
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.margins(x=0.15, y=0.15)
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _processor(found: Complexity) -> str:
    """The exponents of the processor time, in words; other programs do not change these."""
    each = {name: one.exponents.processor_time for name, one in found.kernels.items()}
    fitted = [f"{name} {_mathematical(p)}" for name, p in each.items() if p is not None]
    return f"time, by processor time instead of the clock: {', '.join(fitted)}" if fitted else ""


def _panel(axes: Any, found: Complexity, key: str) -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator

    quantity, (unit, scale) = QUANTITIES[key], UNITS[key]
    lengths: set[int] = set()
    values: list[float] = []
    for place, (name, each) in enumerate(found.kernels.items()):
        runs = [(r.seq_len, scale * y) for r in each.runs if (y := quantity.of(r))]
        exponent = getattr(each.exponents, key)
        if not runs:
            continue
        colour = COLOURS[place % 6]
        style = {"color": colour, "marker": MARKERS[place % 6], "markersize": 7}
        label = f"{name}  {_mathematical(exponent)}".strip()
        ns, ys = zip(*runs, strict=True)
        axes.plot(ns, ys, linestyle="none", label=label, **style)
        _fitted(axes, ns, ys, exponent, colour)
        lengths.update(ns)
        values += ys
    axes.set(xscale="log", yscale="log", xlabel="length N (tokens)", title=quantity.title)
    axes.xaxis.set_major_locator(FixedLocator(sorted(lengths)))
    axes.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
    axes.tick_params("x", rotation=45 if len(lengths) > 6 else 0)
    axes.minorticks_off()
    if values:
        few = max(values) < 100 * min(values)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.yaxis.set_major_formatter(EngFormatter(unit))
        room = (max(values) / min(values)) ** 0.3 * 1.5  # above the points, for the legend
        axes.set_ylim(top=max(values) * room)
        axes.legend(loc="upper left", frameon=False)
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _fitted(axes: Any, ns: tuple, ys: tuple, exponent: float | None, colour: str) -> None:
    """The line of the power law through the middle of the points, in logarithms."""
    import numpy as np

    if exponent is None:
        return
    middle, level = (np.exp(np.log(x).mean()) for x in (ns, ys))
    ends = np.array([min(ns), max(ns)])
    axes.plot(ends, level * (ends / middle) ** exponent, color=colour, linewidth=1.4, alpha=0.75)


def _mathematical(exponent: float | None) -> str:
    """'N^1.98' as matplotlib sets it."""
    return power(exponent).replace("^", "^{").join(("$", "}$")) if exponent is not None else ""


def _drawn(file: Path) -> bool:
    """Whether a file is a picture of ours, which a new one may replace."""
    try:
        with file.open("rb") as opened:
            return MARK.encode() in opened.read(LARGEST)
    except OSError:
        return False


def _write(figure: Any, file: Path) -> None:
    content = BytesIO()
    kind = file.suffix[1:].lower()
    metadata = {"Software" if kind == "png" else "Creator": MARK}
    figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, content.getvalue())
