"""The rows of `four_models.py` as tables in markdown, one for each model."""

from math import log
from typing import Any

from four_models_rows import ROWS

HEADINGS = (
    "row",
    "parameters",
    "keep",
    "MB",
    "score",
    "change",
    "seconds",
    "CPU s",
    "memory MB",
    "RSS MB",
    "device",
)
MEMORY = ("peak_memory_bytes", "peak_rss_bytes")
MB = 10**6
PERPLEXITY = "perplexity"
LARGE = 10**4  # perplexities from here on are written with an exponent
CPU = "CPU"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each model. The change is that of the score against the dense row: a difference
    of Spearman, or of nats for a perplexity."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["row"]: row for row in rows if row["model"] == model}
        parts += [
            f"### {model}\n",
            _line(HEADINGS),
            _line(["---", *["---:"] * (len(HEADINGS) - 1)]),
        ]
        parts += [_line(_cells(own[name], own.get("dense"))) for name in ROWS if name in own]
        parts.append("")
    return "\n".join(parts)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any], dense: dict[str, Any] | None) -> list[str]:
    about = ROWS[row["row"]].about
    if "failed" in row:
        return [about, *[""] * 3, f"failed: {row['failed']}", *[""] * (len(HEADINGS) - 5)]
    keep = row.get("keep")
    return [
        about,
        f"{row['parameters']:,}",
        "" if keep is None else f"{keep:.3f}",
        f"{row['weight_bytes'] / MB:.1f}",
        _score(row),
        "" if dense is None or row is dense else f"{_change(row, dense):+.4f}",
        *(f"{row[key]:.0f}" if key in row else "" for key in ("seconds", "cpu_seconds")),
        *(f"{row[key] / MB:.0f}" if row.get(key) else "" for key in MEMORY),
        row.get("device", CPU).removeprefix("NVIDIA "),
    ]


def _score(row: dict[str, Any]) -> str:
    if row["metric"] != PERPLEXITY:
        return f"{row['score']:.4f}"
    return f"{row['score']:.2f}" if row["score"] < LARGE else f"{row['score']:.1e}"


def _change(row: dict[str, Any], dense: dict[str, Any]) -> float:
    if row["metric"] == PERPLEXITY:
        return log(row["score"] / dense["score"])
    return row["score"] - dense["score"]
