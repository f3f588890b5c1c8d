"""The picture of attention kernels, drawn with matplotlib, which the extra `plots` installs."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from tlmtool.failure import MissingDependency, Usage
from tlmtool.files.claims import claim
from tlmtool.files.places import path_of
from tlmtool.files.writing import write_whole
from tlmtool.report.parts.complexity import QUANTITIES, Complexity, power
from tlmtool.report.picture import COLOURS, MARKERS

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
        panel(axes, found, key, _mathematical)
        axes.set_title(QUANTITIES[key].title)
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


def _processor(found: Complexity) -> str:
    """The exponents of the processor time, in words; other programs do not change these."""
    each = {name: one.exponents.processor_time for name, one in found.kernels.items()}
    fitted = [f"{name} {_mathematical(p)}" for name, p in each.items() if p is not None]
    return f"time, by processor time instead of the clock: {', '.join(fitted)}" if fitted else ""


def panel(
    axes: Any, found: Complexity, key: str, law: Callable[[float | None], str] = power
) -> None:
    """Draws one quantity of all kernels, with their power laws. `law`: an exponent as text."""
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
        label = f"{name}  {law(exponent)}".strip()
        ns, ys = zip(*runs, strict=True)
        axes.plot(ns, ys, linestyle="none", label=label, **style)
        _fitted(axes, ns, ys, exponent, colour)
        lengths.update(ns)
        values += ys
    axes.set(xscale="log", yscale="log", xlabel="length N (tokens)")
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
