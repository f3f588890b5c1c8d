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
)
MEMORY = ("peak_memory_bytes", "peak_rss_bytes")
MB = 10**6
PERPLEXITY = "perplexity"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each model. The change is that of the score against the dense row: a difference
    of Spearman, or of nats for a perplexity."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["row"]: row for row in rows if row["model"] == model}
        parts += [f"### {model}\n", _line(HEADINGS), _line(["---", *["---:"] * 9])]
        parts += [_line(_cells(own[name], own.get("dense"))) for name in ROWS if name in own]
        parts.append("")
    return "\n".join(parts)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: dict[str, Any], dense: dict[str, Any] | None) -> list[str]:
    about = ROWS[row["row"]].about
    if "failed" in row:
        return [about, *[""] * 3, f"failed: {row['failed']}", *[""] * 5]
    keep = row.get("keep")
    return [
        about,
        f"{row['parameters']:,}",
        "" if keep is None else f"{keep:.3f}",
        f"{row['weight_bytes'] / MB:.1f}",
        f"{row['score']:.{2 if row['metric'] == PERPLEXITY else 4}f}",
        "" if dense is None or row is dense else f"{_change(row, dense):+.4f}",
        *(f"{row[key]:.0f}" if key in row else "" for key in ("seconds", "cpu_seconds")),
        *(f"{row[key] / MB:.0f}" if row.get(key) else "" for key in MEMORY),
    ]


def _change(row: dict[str, Any], dense: dict[str, Any]) -> float:
    if row["metric"] == PERPLEXITY:
        return log(row["score"] / dense["score"])
    return row["score"] - dense["score"]
