"""What `--fail-if` can name: the figures of each verb's report, known before anything is loaded.

A figure is a dotted path in the report, or its last part where that says which. In the paths that
are known, `#` stands for a place in a list whose length only the run finds. `*` stands for a name
that only the model has, such as a role. All of them are read off the layout of the parts.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from tlmtool.failure import Usage, show
from tlmtool.files.numbers import number
from tlmtool.report.asked import Asked
from tlmtool.report.layout import kinds, name_of

COMPARISON = re.compile(r"\s*([\w.\-]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")
USUAL = (  # those that are checked most, which the help and a refusal name first
    *("parameters.keep", "parameters.growth", "parameters.after", "flops.after"),
    *("file_bytes.after", "parity.relative", "recovery.recovered", "training.last_loss"),
    *("models.0.parameters", "models.0.runs.0.flops", "models.0.runs.0.latency_ms.median"),
    *("step.step_flops.after", "cost.flops", "study.pairs.#.p_holm", "models.0.score"),
    *("baseline.difference", "generations.0.tokens_per_second"),
    *("peak_memory_bytes", "peak_rss_bytes"),
)
RENAMED = {  # a part of a path in reports of schema 1: what it is called now
    "bytes": "file_bytes (the files of weights on disk) or weight_bytes (the weights in memory)",
}


def check_figure(key: str, verb: str, values: Mapping[str, Any]) -> None:
    """Raises Usage where the report of a run of `verb` will have no figure `key`. `values`: {path:
    value} of its recipe."""
    find(key, verb, figures(verb, values), shortcuts(verb, values))


def find(key: str, verb: str, paths: Iterable[str], named: Mapping[str, str]) -> str:
    """The path, of those of a report, that `key` means: itself, by a short name, or by its last
    part. Raises Usage where there is none, or more than one."""
    paths = list(paths)
    if key in paths or any(_matches(path, key) for path in paths if "#" in path or "*" in path):
        return key
    if key in named:
        return named[key]
    bare = [path for path in paths if path.rpartition(".")[2] == key and not _listed(path)]
    if len(bare) == 1:
        return bare[0]
    if bare:
        raise Usage(f"{key} is not one figure of the report: say {' or '.join(bare[:4])} ...")
    last = {path.rpartition(".")[2]: None for path in paths if not _listed(path)}
    near = get_close_matches(key, [*named, *last, *paths], 1, 0.5)
    hint = f"did you mean {near[0]}?; " if near and not {*"#*"} & {*near[0]} else ""
    if old := next((part for part in key.split(".") if part in RENAMED), None):
        hint = f"instead of {old} say {RENAMED[old]}; "
    known = ", ".join([*named, *_grouped(paths)])
    raise Usage(f"the report of tlm {verb} has no figure {show(key)}; {hint}it has {known}")


def _grouped(paths: Iterable[str]) -> list[str]:
    """Paths in short, those of one part together: 'flops.{before,after}'."""
    parts: dict[str, list[str]] = {}
    for path in paths:
        home, _, last = path.rpartition(".")
        parts.setdefault(home, []).append(last)
    return [
        ", ".join(last)
        if not home
        else f"{home}.{last[0]}"
        if len(last) == 1
        else f"{home}.{{{','.join(last)}}}"
        for home, last in parts.items()
    ]


def brief(paths: Iterable[str], named: Mapping[str, str]) -> list[str]:
    """Some figures that are checked most, short names first."""
    paths = set(paths)
    return [*named, *(path for path in USUAL if path in paths)]


def helped(verb: str) -> list[str]:
    """The figures that the help of a verb names: the first nine of `brief`."""
    given: dict[str, dict[str, Any]] = {
        "compress": {"compression.keep": 0.5, "recovery.steps": 1},
        "evaluate": {"evaluation.baseline": "", "evaluation.task": "mlm"},
        "export": {"export.to": "onnx"},
        "profile": {"profiling.latency": True},
    }
    values = given.get(verb, {})
    return brief(figures(verb, values), shortcuts(verb, values))[:9]


def shortcuts(verb: str, values: Mapping[str, Any]) -> dict[str, str]:
    """{short name: path} of the figures that a report will have."""
    asked, found = Asked(verb, values), dict[str, str]()
    for kind in kinds():
        if kind.expected(asked):
            found |= kind.nicknames(asked)
    return found


def figures(verb: str, values: Mapping[str, Any]) -> list[str]:
    """Paths of the figures that a report may have."""
    asked = Asked(verb, values)
    expected = (kind for kind in kinds() if kind.expected(asked))
    return [path for kind in expected for path in _figures(kind, kind.key, asked, {})]


def _figures(kind: Any, path: str, asked: Asked, field: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the numbers in what a type holds. `field`: what its entry says of it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        inner = tuple(each for each in inner if each is not NoneType)
        yield from _figures(inner[0], path, asked, field)
    elif kind in (int, float):
        yield path
    elif is_dataclass(kind):
        for each in fields(kind):
            if asked.holds(each.metadata["when"]):
                here = path if each.metadata["spread"] else _joined(path, name_of(each))
                yield from _figures(each.type, here, asked, each.metadata)
    elif origin is tuple:
        known = range(getattr(asked, field["count"])) if field["count"] else ("#",)
        places = known if inner[-1] is Ellipsis else range(len(inner))
        for place in places:
            yield from _figures(inner[0], _joined(path, str(place)), asked, field)
    elif origin is dict:
        for name in getattr(asked, field["names"]) if field["names"] else ("*",):
            yield from _figures(inner[1], _joined(path, name), asked, field)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(path: str) -> bool:
    """Whether a path goes through a list."""
    return bool(re.search(r"\.(\d+|#)(\.|$)", path))


def _matches(path: str, key: str) -> bool:
    """Whether a path with places and names left open is that of a key."""
    pattern = re.escape(path).replace(r"\#", r"\d+").replace(r"\*", r"[\w.\-]+")
    return re.fullmatch(pattern, key) is not None


def checked_figure(test: str | None) -> str:
    """The figure that a check such as 'loss>3.2' names; nothing where none is asked for."""
    return comparison(test)[0] if test else ""


def comparison(text: str) -> tuple[str, str, float]:
    """('loss', '>', 3.2) out of 'loss>3.2'; raises Usage."""
    found = COMPARISON.fullmatch(text)
    try:
        if found and math.isfinite(limit := number(found[3])):
            return found[1], found[2], float(limit)
    except (ValueError, OverflowError):
        pass
    raise Usage(
        f"the check {show(text)} is not a comparison with a number such as 'loss>3.2' "
        "(operators: > >= < <= == !=)"
    )
