"""What a command found out. Its JSON holds everything; the table and the card show it."""

import json
import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlmtool.failure import CheckFailed, Usage
from tlmtool.report.building import parts_of
from tlmtool.report.checks import comparison, find
from tlmtool.report.layout import Document, leaves
from tlmtool.report.parts.ending import Predicted
from tlmtool.report.parts.model import Model
from tlmtool.report.printable import printable
from tlmtool.report.views import alarms, facts, lines, views, warnings

if TYPE_CHECKING:
    from rich.console import Console

OPERATORS = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class Report(Document):
    """The result of one command: its parts, and ways to show and to check them. `failed`: what kept
    a part of the command from its end; the rest was done."""

    failed: Exception | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "Report":
        """The report whose `data` this is. Raises ValueError for what is not of the layout."""
        return cls(data["verb"], parts_of(data["verb"], data))

    def to_json(self) -> str:
        """One JSON object, indented, without letters that a terminal obeys; a number that is not
        finite becomes null."""
        return printable(json.dumps(_jsonable(self.data), indent=2, ensure_ascii=False))

    def table(self, console: "Console", full: bool = False) -> None:
        """Prints to a rich console; `full`: every site on a row of its own."""
        from rich.text import Text

        console.print(Text(self.title(), style="bold"), soft_wrap=True)
        for view in views(self, full):
            console.print()
            header, *rows = lines(view, console.width)
            console.print(Text(view.title, style="bold"))
            console.print(Text(header, style="dim"), soft_wrap=True)
            for row in rows:
                console.print(Text(row), soft_wrap=True)
            for line in filter(None, view.note.split("\n")):
                console.print(Text(line, style="dim"))
        console.print()
        for label, text in facts(self, full):
            console.print(Text(f"{label:12} ", style="bold") + Text(text), soft_wrap=True)
        for warning in warnings(self):
            loud = warning in alarms(self)
            text = f"WARNING: {warning}" if loud else f"warning: {warning}"
            style = "bold red" if loud else "yellow"
            console.print(Text(text, style=style), soft_wrap=True)

    def title(self) -> str:
        """'tlm compress minilm (BertModel) -> out/m8'."""
        model, mark = self.part(Model) or Model(), ""
        kind = f" ({model.class_})" if model.class_ else ""
        out = f" -> {model.out}" if model.out else ""
        if self.part(Predicted):
            mark = "; predicted, nothing was written"
        return f"tlm {self.verb} {model.id or ''}".rstrip() + kind + out + mark

    def card(self, model_id: str) -> str:
        """README.md of the checkpoint, to be loaded as `model_id`."""
        from tlmtool.report.card import card

        return card(self, model_id)

    def check(self, expression: str) -> None:
        """Raises CheckFailed when a comparison such as 'loss>3.2' is true of the report.

        The left side is a dotted path in `data` (not in its recipe), or a leaf name that occurs
        once outside lists. It may also be a short name that a part gives to one of its figures.
        `tlmtool.report.checks` knows them all.
        """
        key, sign, limit = comparison(expression)
        value = self.figure(key)
        if math.isnan(value):
            raise CheckFailed(f"check failed: {key} is not a number, so {expression} is undecided")
        if OPERATORS[sign](value, limit):
            raise CheckFailed(f"check failed: {key} is {value:g}, so {expression} holds")

    def figure(self, key: str) -> float:
        """A figure by its path, its last part or a short name; raises Usage for none."""
        there = dict(leaves({name: part for name, part in self.data.items() if name != "recipe"}))
        path = find(key, self.verb, there, self.named())
        value = there[path]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Usage(f"{key} cannot be compared with a number: it is {value!r}")
        return float(value)

    def named(self) -> dict[str, str]:
        """{short name for --fail-if: path of the figure}."""
        return {name: path for part in self.parts for name, path in part.named().items()}


def _jsonable(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _jsonable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_jsonable(value) for value in data]
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    return data if data is None or isinstance(data, bool | int | str) else str(data)
