"""What a command found out: JSON is the form; the terminal table and the card are views of it."""

import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tlmtool.failure import CheckFailed, Usage
from tlmtool.report.checks import comparison, find
from tlmtool.report.figures import TEXT_COLUMNS, View, figure, human
from tlmtool.report.printable import printable
from tlmtool.report.views import views
from tlmtool.report.views_complexity import called, forms

SCHEMA_VERSION = 1
OPERATORS = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass
class Report:
    """The result of one command. `data`: what can be written as JSON; its layout is in DESIGN 8."""

    verb: str
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = {"schema_version": SCHEMA_VERSION, "verb": self.verb}
        self.data = first | {key: each for key, each in self.data.items() if key not in first}

    def to_json(self) -> str:
        """One JSON object, indented, no letter in it that a terminal obeys; what is not a finite
        number becomes null."""
        return printable(json.dumps(_jsonable(self.data), indent=2, ensure_ascii=False))

    def table(self, console: Any, full: bool = False) -> None:
        """Prints to a rich console; `full`: every site on a row of its own."""
        from rich.text import Text

        console.print(Text(self.title(), style="bold"), soft_wrap=True)
        for view in views(self.data, full):
            console.print()
            header, *rows = _lines(view, console.width)
            console.print(Text(view.title, style="bold"))
            console.print(Text(header, style="dim"), soft_wrap=True)
            for row in rows:
                console.print(Text(row), soft_wrap=True)
            for line in filter(None, view.note.split("\n")):
                console.print(Text(line, style="dim"))
        console.print()
        for label, text in self.facts(full):
            console.print(Text(f"{label:12} ", style="bold") + Text(text), soft_wrap=True)
        for warning in self.data.get("warnings") or []:
            console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)

    def title(self) -> str:
        """'tlm compress minilm (BertModel) -> out/m8'."""
        model = self.data.get("model") or {}
        kind = f" ({model['class']})" if model.get("class") else ""
        out = f" -> {model['out']}" if model.get("out") else ""
        mark = "; predicted, nothing was written" if self.data.get("predicted") else ""
        return f"tlm {self.verb} {model.get('id', '')}".rstrip() + kind + out + mark

    def facts(self, full: bool = False) -> list[tuple[str, str]]:
        """The rest as (name, sentence): where the figures come from and what they took."""
        data = self.data
        found = {
            "calibration": _calibration(data.get("calibration") or {}),
            "data": str(data.get("data") or ""),
            "allocation": str((data.get("allocation") or {}).get("loss") or ""),
            "difference": _difference(data.get("baseline") or {}),
            "measured": called(data.get("complexity") or {}),
            "kernels": forms(data.get("complexity") or {}),
            "note": str(data.get("note") or ""),
            "seconds": ", ".join(
                f"{key} {figure(value, 1)}" for key, value in (data.get("seconds") or {}).items()
            ),
            "peak memory": human(data.get("peak_memory_bytes"), "B"),
            "seed": str(data.get("seed", "")),
            "versions": ", ".join(f"{k} {v}" for k, v in (data.get("versions") or {}).items()),
        }
        sums = (data.get("model") or {}).get("sha256") or {}
        found["sha256"] = ", ".join(
            f"{file} {digest if full else digest[:12]}" for file, digest in sums.items()
        )
        return [(label, text) for label, text in found.items() if text]

    def methods(self) -> list[str]:
        """Names of the decompositions used."""
        used = [
            (each.get("decomposition") or {}).get("name") for each in self.data.get("sites") or []
        ]
        return sorted({name for name in used if name})

    def card(self, model_id: str) -> str:
        """README.md of the checkpoint, to be loaded as `model_id`."""
        from tlmtool.report.card import card

        return card(self.data, model_id, self.methods(), self.facts())

    def check(self, expression: str) -> None:
        """Raises CheckFailed when a comparison such as 'loss>3.2' is true of the report.

        The left side is a dotted path in `data` (not in its recipe), a leaf name that occurs once
        outside lists, or a short name: of the quality measured (its value after), or of the metric
        (the first model's score, or the trained model's). `tlmtool.report.checks` knows them all.
        """
        key, sign, limit = comparison(expression)
        value = self._figure(key)
        if math.isnan(value):
            raise CheckFailed(f"check failed: {key} is not a number, so {expression} is undecided")
        if OPERATORS[sign](value, limit):
            raise CheckFailed(f"check failed: {key} is {value:g}, and {expression} was to fail")

    def _figure(self, key: str) -> float:
        kept = {name: part for name, part in self.data.items() if name != "recipe"}
        leaves = dict(_leaves(kept))
        path = find(key, self.verb, leaves, self._named(leaves))
        value = leaves[path]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Usage(f"{key} cannot be compared with a number: it is {value!r}")
        return float(value)

    def _named(self, leaves: Mapping[str, Any]) -> dict[str, str]:
        """{short name: path}: of what was evaluated or trained, the model's own, after the run."""
        quality, metric = self.data.get("quality") or {}, str(self.data.get("metric") or "")
        named = {str(quality["name"]): "quality.after"} if "name" in quality else {}
        first = "models.0." if metric else "scores.after."
        named |= {p.removeprefix(first): p for p in leaves if p.startswith(first)}
        if "models.0.score" in leaves:
            names = (metric.replace(" ", "_"), *(["loss"] if metric == "nll" else []))
            named |= dict.fromkeys(names, "models.0.score")
        if (name := (self.data.get("scores") or {}).get("name")) == "BLEU":
            named[name] = "scores.after.score"
        return named


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that is no dict or list."""
    if isinstance(data, Mapping | list | tuple):
        inner = data.items() if isinstance(data, Mapping) else enumerate(data)
        for key, value in inner:
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, data


def _jsonable(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _jsonable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_jsonable(value) for value in data]
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    return data if data is None or isinstance(data, bool | int | str) else str(data)


def _calibration(data: Mapping[str, Any]) -> str:
    counts = [f"{data[key]:,} {key}" for key in ("texts", "tokens") if data.get(key) is not None]
    elsewhere = f"measured on {data['measured_on']}" if data.get("measured_on") else ""
    return ", ".join(filter(None, [str(data.get("source") or ""), *counts, elsewhere]))


def _difference(data: Mapping[str, Any]) -> str:
    if data.get("difference") is None:
        return ""
    low, high = data.get("interval") or (None, None)
    level = f", {100 * data.get('level', 0.95):g} % interval" if low is not None else ""
    interval = f"{level} [{low:+.4f}, {high:+.4f}]" if level else ""
    method = f" ({data['method']})" if data.get("method") else ""
    return f"{data['difference']:+.4f} to {data.get('id', 'the baseline')}{interval}{method}"


def _lines(view: View, width: int) -> list[str]:
    """Header and rows in columns two spaces apart; names give way where `width` is too small."""
    table = [view.header, *view.rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(view.header))]
    room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = max(16, min(widths[0], room))

    def cell(text: str, index: int) -> str:
        if len(text) > widths[index]:
            half = (widths[index] - 2) // 2
            text = f"{text[:half]}..{text[-(widths[index] - 2 - half) :]}"
        aligned_left = index == 0 or view.header[index] in TEXT_COLUMNS
        return text.ljust(widths[index]) if aligned_left else text.rjust(widths[index])

    return ["  ".join(map(cell, row, range(len(row)))).rstrip() for row in table]
