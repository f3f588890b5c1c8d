"""The rows of `fronts.py` as a table and a picture, and which of them bits alone do not reach."""

from pathlib import Path
from typing import Any

ALONE = ("dense", "int8", "int4", "int4, tokens int8")  # rows without low rank
FIGURES = {  # {a figure to keep small: its heading}
    "file_bytes": "bytes on disk",
    "prefill": "time of 512 tokens, dense = 1",
    "decode": "time of one more token, dense = 1",
}


def figures(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """{row: its figures by name}, of the rows that did not fail. A rounded row has the times of the
    one that it was rounded from."""
    there = {row["row"]: row for row in rows if "failed" not in row}
    found: dict[str, dict[str, float]] = {}
    for name, row in there.items():
        held = {key: row[key] for key in ("loss", "perplexity", "file_bytes", "bits_per_weight")}
        timed = there.get(row.get("timed_as", name), {}).get("milliseconds", {})
        found[name] = held | {key: each["this"] / each["dense"] for key, each in timed.items()}
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of all rows."""
    found = figures(rows)
    head = ["row", "MB on disk", "bits per weight", "perplexity", "nats above dense"]
    head += ["512 tokens", "one token"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, each in found.items():
        rise = each["loss"] - found["dense"]["loss"]
        cells = [f"{each['file_bytes'] / 1e6:.1f}", f"{each['bits_per_weight']:.2f}"]
        cells += [f"{each['perplexity']:.2f}", f"{rise:+.3f}"]
        cells += [f"{each[key]:.2f}" if key in each else "" for key in ("prefill", "decode")]
        lines.append([name, *cells])
    failed = [[row["row"], row["failed"], *[""] * 5] for row in rows if "failed" in row]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *failed])


def better(one: dict[str, float], other: dict[str, float], figure: str) -> bool:
    """Whether a row is as small as another in a figure and in perplexity."""
    return all(one[key] <= other[key] for key in (figure, "perplexity"))


def beyond(rows: list[dict[str, Any]]) -> list[str]:
    """For each figure a sentence: which rows with low rank no row of bits alone equals in both that
    figure and perplexity."""
    found, told = figures(rows), []
    for figure, heading in FIGURES.items():
        there = {name: each for name, each in found.items() if figure in each}
        alone = [each for name, each in there.items() if name in ALONE]
        names = [
            name
            for name, each in there.items()
            if name not in ALONE and not any(better(one, each, figure) for one in alone)
        ]
        told.append(f"{heading}: bits alone do not reach {'; '.join(names) or 'none'}")
    return told


def picture(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws each figure against perplexity; bits alone are joined by a line. A row in few bits has
    the time of the one that it was rounded from, so that only bytes show it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    found = figures(rows)
    drawn = Figure(figsize=(15, 5), layout="constrained")
    for axes, (figure, heading) in zip(
        drawn.subplots(1, len(FIGURES)), FIGURES.items(), strict=True
    ):
        there = {name: each for name, each in found.items() if figure in each}
        if figure != "file_bytes":
            rounded = {row["row"] for row in rows if "timed_as" in row}
            there = {name: each for name, each in there.items() if name not in rounded}
        else:
            there = {n: each | {figure: each[figure] / 1e6} for n, each in there.items()}
            heading = "MB on disk"
        joined = sorted(
            (each[figure], each["perplexity"]) for n, each in there.items() if n in ALONE
        )
        axes.plot(*zip(*joined, strict=True), color="#d55e00", linewidth=1.2, label="bits alone")
        for name, each in there.items():
            colour = "#d55e00" if name in ALONE else "#0072b2"
            axes.scatter(each[figure], each["perplexity"], color=colour)
            at = (each[figure], each["perplexity"])
            below = name in ("int4", "keep 0.6, plain")  # as large as the row above it
            place = (5, -11 if below else 5)
            axes.annotate(name, at, place, textcoords="offset points", fontsize=7)
        axes.margins(x=0.18)
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.set(xlabel=heading, ylabel="perplexity", yscale="log")
        axes.legend()
    drawn.savefig(file)
