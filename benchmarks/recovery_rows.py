"""The rows of `recovery.py`: what is compressed, how it is trained, and the table."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

KEEPS = (0.8, 0.6)
STEPS = (50, 100, 300, 1000)
RATES = {"factors": (1e-4, 3e-4, 1e-3), "all": (3e-5, 1e-4, 3e-4)}  # the second is the default
TEXTS = (32_768, 131_072)  # tokens of text, which 300 steps of 2,048 repeat
HIDDEN = (0.1, 1.0)
HALVES = ("early", "late")


@dataclass(frozen=True)
class Row:
    """One model that is scored. `steps`: None for the compressed one as it is; `keep`: None for the
    dense one. `lr`: None for the default; `text`: its tokens, None for as many as the steps read;
    `hidden`: the weight of the hidden states; `half`: of the layers, which alone are trained."""

    keep: float | None = None
    steps: int | None = None
    train: str = "factors"
    lr: float | None = None
    text: int | None = None
    hidden: float = 0.0
    schedule: str = "linear"
    half: str = ""
    window: int | None = None

    @property
    def name(self) -> str:
        """'0.8-factors-100-lr0.0001', as `--rows` takes it."""
        if self.keep is None:
            return "dense"
        if self.steps is None:
            return f"{self.keep}-compressed"
        more = [f"lr{self.lr:g}" if self.lr else "", f"text{self.text}" if self.text else ""]
        more += [f"hidden{self.hidden:g}" if self.hidden else ""]
        more += [self.schedule if self.schedule != "linear" else "", self.half]
        more += [f"window{self.window}" if self.window else ""]
        return "-".join([f"{self.keep}-{self.train}-{self.steps}", *filter(None, more)])


def _of(keep: float) -> Iterator[Row]:
    """The rows of one compressed checkpoint, the most telling first."""
    yield Row(keep)
    for train in ("all", "factors"):
        base = Row(keep, 100, train)
        yield from (replace(base, steps=steps) for steps in STEPS[:3])
        yield from (replace(base, lr=rate) for rate in (RATES[train][0], RATES[train][2]))
        yield from (replace(base, hidden=weight) for weight in HIDDEN)
        yield replace(base, schedule="cosine")
        yield replace(base, steps=STEPS[3])
    for train in ("all", "factors"):
        yield from (Row(keep, 300, train, text=tokens) for tokens in TEXTS)
        yield from (Row(keep, 100, train, half=half) for half in HALVES)
        yield Row(keep, 100, train, window=512)


ROWS = {row.name: row for row in (Row(), *(row for keep in KEEPS for row in _of(keep)))}


def chosen(patterns: list[str]) -> list[Row]:
    """The rows that names or patterns choose, in their order. Raises ValueError for one that
    chooses none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ROWS):
            raise ValueError(f"no row is named {pattern}: there is {', '.join(ROWS)}")
    return [r for n, r in ROWS.items() if any(fnmatchcase(n, each) for each in patterns)]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the rows that are there, in nats above the dense model where that is known."""
    there = {row["row"]: row for row in rows if "failed" not in row}
    dense = there.get("dense", {}).get("loss")
    lines = ["| row | perplexity | nats above dense | tokens seen | s a step |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, row in ((name, there[name]) for name in ROWS if name in there):
        above = "" if dense is None else f"{row['loss'] - dense:+.3f}"
        seen = f"{row['tokens']:,}" if row.get("tokens") else ""
        step = f"{row['seconds_a_step']:.3f}" if row.get("seconds_a_step") else ""
        lines.append(f"| {name} | {row['perplexity']:.2f} | {above} | {seen} | {step} |")
    return "\n".join(lines)
