"""YAML as tlm reads and writes it: plain data, keys that stand once, numbers as YAML 1.2 has them.

PyYAML reads YAML 1.1, in which 010 is 8, 1:30 is 90, 5e-5 and 1e3 are text, `no` is false and
2024-01-01 a date. Here they are 10, text, two numbers, text and text.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from tlmtool.failure import Usage, show
from tlmtool.files.numbers import FLOAT, INTEGER, number

DEEPEST, MOST = 64, 20_000  # levels and values; a recipe has some five and some hundred of them
NULL, BOOLEAN = r"~|null|Null|NULL|", r"true|True|TRUE|false|False|FALSE"
PLAIN = {  # what text without quotes is, and the letters that it can begin with
    "null": (NULL, ["~", "n", "N", ""]),
    "bool": (BOOLEAN, list("tTfF")),
    "int": (INTEGER, list("-+0123456789")),
    "float": (FLOAT, list("-+.0123456789")),
}


def parse(text: str, where: str) -> Any:
    """The value that YAML text holds: lists, dicts, text, numbers, booleans or None.

    `where` it stands, in words. Raises Usage, with line and column, for what is no YAML, and for a
    key that is given twice, a tag, a merge (`<<`) and what, its aliases written out, is too deep or
    too much.
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
    """YAML that `parse` reads back as the same, keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Refused(yaml.MarkedYAMLError):
    """YAML, but not of the kind that is read here."""

    def __init__(self, problem: str, mark: Any):  # yaml has two kinds of marks
        super().__init__(problem=problem, problem_mark=mark)


def _bounded(count: int, depth: int, mark: yaml.Mark) -> None:
    if depth > DEEPEST:
        raise _Refused(f"it nests too deep, more than {DEEPEST} levels", mark)
    if count > MOST:
        raise _Refused(f"it holds more than {MOST:,} values", mark)


class _Loader(yaml.SafeLoader):
    """Composes nodes within bounds, and builds mappings whose keys stand once."""

    def __init__(self, text: str):
        super().__init__(text)
        self.count = self.depth = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # id of a node: values, levels written out

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if tag := getattr(event, "tag", None):
            what = tag.removeprefix("tag:yaml.org,2002:")
            raise _Refused(f"YAML tags such as {what[:80]} are refused", event.start_mark)
        self.count += 1
        self.depth += 1
        _bounded(self.count, self.depth, event.start_mark)
        node = super().compose_node(parent, index)
        assert node is not None  # of an event that is no end
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.sizes[id(node)] = self._size(node)
        elif id(node) not in self.sizes:
            raise _Refused(f"the alias *{event.anchor} stands within itself", event.start_mark)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node, each alias counted as what it stands for."""
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [
            self.sizes[id(e)] for each in inner for e in (each if type(each) is tuple else [each])
        ]
        count, depth = 1 + sum(c for c, _ in parts), 1 + max((d for _, d in parts), default=0)
        _bounded(count, depth, node.start_mark)
        return count, depth

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        marks: dict[Any, yaml.Mark] = {}
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


_Loader.yaml_implicit_resolvers = {}  # not those of YAML 1.1
for _name, (_pattern, _letters) in PLAIN.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), _letters
    )
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something else than text; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        other = any(re.fullmatch(pattern, data) for pattern, _ in PLAIN.values())
        style = "'" if other else None if data.isprintable() else '"'  # which escapes
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)
