"""Reads and writes YAML: plain data only, each key once, numbers as in YAML 1.2.

PyYAML reads YAML 1.1, where 010 is 8, 1:30 is 90, 5e-5 and 1e3 are text, `no` is false and
2024-01-01 is a date. Here 010 is 10, 5e-5 and 1e3 are numbers, and the others are text.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from tlmtool.failure import Usage, show
from tlmtool.files.numbers import FLOAT, INTEGER, number

DEEPEST, MOST = 64, 20_000  # levels and values, aliases written out; recipes have 5 and 100
NULL, BOOLEAN = r"~|null|Null|NULL|", r"true|True|TRUE|false|False|FALSE"
PLAIN = {  # kinds of values without quotes: their pattern, and the letters they begin with
    "null": (NULL, ["~", "n", "N", ""]),
    "bool": (BOOLEAN, list("tTfF")),
    "int": (INTEGER, list("-+0123456789")),
    "float": (FLOAT, list("-+.0123456789")),
}


def parse(text: str, where: str) -> Any:
    """The value of a YAML text: lists, dicts, text, numbers, booleans or None.

    `where` says in words where the text is. Raises Usage, with line and column, for broken YAML, a
    key that is given twice, a tag, a merge (`<<`), and for too many values or levels.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "broken")
        kind = ": " if isinstance(error, _Refused) else " is not valid YAML: "
        raise Usage(f"{where}{at}{kind}{problem}") from None
    except (ValueError, OverflowError) as error:
        raise Usage(f"{where} is not valid YAML: {show(str(error))}") from None


def written(tree: Any) -> str:
    """YAML that `parse` reads back as the same value, keys in the same order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not read here."""

    def __init__(self, problem: str, mark: Any):  # yaml has two kinds of marks
        super().__init__(problem=problem, problem_mark=mark)


def _bounded(count: int, depth: int, mark: Any) -> None:
    if depth > DEEPEST:
        raise _Refused(f"it nests too deep, more than {DEEPEST} levels", mark)
    if count > MOST:
        raise _Refused(f"it holds more than {MOST:,} values", mark)


class _Loader(yaml.SafeLoader):
    """A loader with bounds on values and levels, and without repeated keys."""

    def __init__(self, text: str):
        super().__init__(text)
        self.count = self.depth = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # {id of a node: (values, levels)}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if tag := getattr(event, "tag", None):
            what = tag.removeprefix("tag:yaml.org,2002:")
            raise _Refused(f"YAML tags such as {what[:80]} are refused", event.start_mark)
        self.count += 1
        self.depth += 1
        _bounded(self.count, self.depth, event.start_mark)
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.sizes[id(node)] = self._size(node)
        elif id(node) not in self.sizes:
            raise _Refused(f"the alias *{event.anchor} stands within itself", event.start_mark)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """(values, levels) of a node; an alias counts as what it stands for."""
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [
            self.sizes[id(e)] for each in inner for e in (each if type(each) is tuple else [each])
        ]
        count, depth = 1 + sum(c for c, _ in parts), 1 + max((d for _, d in parts), default=0)
        _bounded(count, depth, node.start_mark)
        return count, depth

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        marks: dict[Any, Any] = {}
        for name, value in node.value:
            key, mark = self.construct_object(name, deep=True), name.start_mark
            if key == "<<" and not name.style:
                raise _Refused("a merge (<<) is refused: write the keys out", mark)
            if not isinstance(key, Hashable):
                raise _Refused("a list or a mapping is no key", mark)
            if key in marks:
                line, column = marks[key].line + 1, marks[key].column + 1
                raise _Refused(
                    f"the key {show(key)} stands at line {line}, column {column} already: keep one",
                    mark,
                )
            marks[key], found[key] = mark, self.construct_object(value, deep=deep)
        return found

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        return number(node.value)


_Loader.yaml_implicit_resolvers = {}  # without those of YAML 1.1
for _name, (_pattern, _letters) in PLAIN.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), _letters
    )
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes any text which YAML 1.1 or 1.2 reads as something else; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        other = any(re.fullmatch(pattern, data) for pattern, _ in PLAIN.values())
        style = "'" if other else None if data.isprintable() else '"'  # which escapes
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)
