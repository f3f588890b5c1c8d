"""Writes the generated parts of the docs: the options of each command and the lists of names.

    python docs/generate.py           # after a change of a help text, a flag or a registry
    python docs/generate.py --check   # exit 1, and name the pages that are out of date

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a page
is written by hand. `tests/test_docs.py` holds the pages to this.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

HERE = Path(__file__).parent
TYPES = {int: "integer", float: "number", str: "text", bool: "boolean"}  # of a field, in words
SHARED = "tlmtool.report.pieces"  # what several parts hold is told with each of them
BLOCK = re.compile(r"(<!-- generated: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(*rows: tuple[str, ...]) -> str:
    """A table of Markdown; the first row is its head."""
    head, *body = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def options(verb: str) -> str:
    """What `tlm VERB --help` says: what it does, then its options by section, in that order."""
    from typer.main import get_command

    from tlmtool.cli.app import application

    command: Any = get_command(application([verb]))
    command = command.commands[verb]
    if hasattr(command, "name_figures"):
        command.name_figures()
    sections: dict[str, list[tuple[str, ...]]] = {}
    for each in command.params:
        if "--help" in each.opts or getattr(each, "hidden", False):
            continue
        argument = not each.opts[0].startswith("-")
        words = [*each.opts[: 0 if argument else None], (each.metavar or "").strip()]
        spelled = " ".join(word for word in words if word)
        section = getattr(each, "rich_help_panel", None) or "Options"
        sections.setdefault("Argument" if argument else section, []).append(
            (f"`{spelled}`", _plain(each.help or ""))
        )
    parts = [f"{_plain(command.help or '')}\n"]
    for section, rows in sorted(sections.items(), key=lambda each: each[0] != "Argument"):
        parts.append(table((section, "meaning"), *rows))
    return "\n".join(parts)


def _plain(help: str) -> str:
    """Help in one line, its markup dropped; globs are no emphasis, and `<model>` is no tag."""
    return " ".join(re.sub(r"\[/?\w*\]", "", help).split()).replace("*", r"\*").replace("<", "&lt;")


def methods() -> str:
    """The decompositions: the first line of each file, and what each can do."""
    from tlmtool.decompositions import NAMES, named
    from tlmtool.recipe.compression import decompositions

    rows = [
        (
            f"`{n}`",
            decompositions()[n],
            "yes" if named(n).takes_metric else "no: needs `--calibration none`",
            "yes" if named(n).automatic else "no",
        )
        for n in NAMES
    ]
    return table(("method", "what it is", "weighs by text", "in `auto`"), *rows)


def families() -> str:
    """The model types of the table of architectures, and which of them take tensor attention."""
    from tlmtool.models.architectures import ARCHITECTURES, UNKNOWN

    why = {f"`{name}`": each.refuses for name, each in ARCHITECTURES.items()}
    why["any other text model"] = UNKNOWN
    rows = ((name, f"no: {reason}" if reason else "yes") for name, reason in why.items())
    return table(("model type", "takes tensor attention"), *rows)


def family_names() -> str:
    """What models are supported, for README."""
    from tlmtool.models.architectures import ARCHITECTURES

    able = (name for name, each in ARCHITECTURES.items() if not each.refuses)
    return f"Tensor attention is for these model types: {', '.join(able)}.\n"


def rooms() -> str:
    """The rooms of the package, from the top to the ground, as its docstring lists them."""
    import tlmtool

    found = re.findall(r"^    (\w+) {2,}(.+)$", tlmtool.__doc__ or "", re.M)
    return table(("room", "what is in it"), *((f"`{name}`", what) for name, what in found))


def metrics() -> str:
    """The metrics, each in words."""
    from tlmtool.tasks.metrics import METRICS

    return table(("metric", "what it is"), *((f"`{m}`", x.words) for m, x in METRICS.items()))


def tasks() -> str:
    """The tasks: what each is scored by, which commands have it, and what it reads."""
    from tlmtool.tasks.table import TASKS

    rows = []
    for name, task in TASKS.items():
        metric = "`nll` (loss)" if task.metric == "nll" else task.metric
        verbs = "finetune, evaluate" if task.trained else "evaluate"
        rows.append((f"`{name}`", metric, verbs, task.reads))
    return table(("task", "metric", "for", "reads"), *rows)


def folders() -> str:
    """The names of folders of data that recipes use, and what tlm reads in each."""
    from tlmtool.recipe.folders import LAYOUTS

    rows = [(f"`${{{name}}}`", f"`{each[0]}`", each[1]) for name, each in LAYOUTS.items()]
    return table(("name", "usual folder", "what it holds"), *rows)


def keys() -> str:
    """Every key of a recipe, its flag, and the verbs that read it."""
    from tlmtool.recipe.schema import Recipe
    from tlmtool.recipe.setting import settings_of
    from tlmtool.recipe.verbs import VERBS

    rows = []
    for each in settings_of(Recipe):
        flag = f"`{each.name}`" if each.name != each.path else "only in a recipe file"
        verbs = "all" if len(each.verbs) == len(VERBS) else ", ".join(each.verbs)
        rows.append((f"`{each.path}`", flag, verbs))
    return table(("key", "flag", "read by"), *rows)


def report() -> str:
    """Every part of a report, read off the layout."""
    from tlmtool.report.layout import kinds

    return "\n".join(map(_part, kinds()))


def _part(kind: Any) -> str:
    """A section on a part: its docstring, the verbs that have it, a row for each field."""
    from tlmtool.report.asked import condition

    alike = dict[str, list[str]]()  # verbs that have it under the same condition
    for verb, when in kind.verbs.items():
        alike.setdefault(when, []).append(f"`{verb}`")
    where = [" ".join([", ".join(verbs), *condition(when)]) for when, verbs in alike.items()]
    keys = [kind.key] if kind.key else [each.name for each in dataclasses.fields(kind)]
    names = ", ".join(f"`{key}`" for key in keys)
    text, seen = " ".join(kind.__doc__.split()), {kind: kind.key}
    rows = table(("field", "type", "unit", "meaning"), *_fields(kind, kind.key, seen))
    return f"## {names}\n\n{text}\n\nIn the reports of {'; '.join(where)}.\n\n{rows}"


def _fields(
    kind: Any, path: str, seen: dict[Any, str], unit: str = ""
) -> Iterator[tuple[str, ...]]:
    """(path, type, unit, meaning) of each field of a part, and of what it holds.

    `seen`: {type: the path where its fields stand}; they are not repeated, nor are those that
    another part describes."""
    from tlmtool.report.asked import condition
    from tlmtool.report.layout import name_of

    for each in dataclasses.fields(kind):
        said, name = each.metadata, "*" if each.metadata["spread"] else name_of(each)
        here = f"{path}.{name}" if path else name
        words, inner, below = _type(each.type)
        given = said["unit"] or unit
        if each.default is None:
            words = words.removesuffix(" or null") + ", optional"
        meaning = [said["what"], *condition(said["when"])]
        meaning += [f"fields as in `{seen[inner]}`"] if inner in seen else []
        yield f"`{here}`", words, given, "; ".join(meaning)
        if inner not in seen and inner.__module__ in (next(iter(seen)).__module__, SHARED):
            seen |= {inner: here + below} if dataclasses.is_dataclass(inner) else {}
            yield from _fields(inner, here + below, seen, given) if inner in seen else ()


def _type(kind: Any) -> tuple[str, Any, str]:
    """(the type in words, the type of what it holds, what its path adds): 'list' of X, '.#'."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        words, held, below = _type(inner[0])
        return f"{words} or null" if NoneType in inner else words, held, below
    if origin in (tuple, dict):
        each = _type(inner[-1] if origin is dict else inner[0])
        held = "" if inner[-1] is Any else f" of {each[0].split()[0]}s".replace("texts", "text")
        what = ("list" if origin is tuple else "object") + held
        return what, each[1], (".#" if origin is tuple else ".*") + each[2]
    return TYPES.get(kind, "object"), kind, ""


LISTS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "families": families,
    "family names": family_names,
    "rooms": rooms,
    "metrics": metrics,
    "tasks": tasks,
    "folders": folders,
    "keys": keys,
    "report": report,
}


def generated(page: str) -> str:
    """The text of a page with each of its generated parts made anew."""

    def made(match: re.Match[str]) -> str:
        kind, _, verb = match[2].partition(" ")
        text = options(verb) if kind == "options" else LISTS[match[2]]()
        return f"{match[1]}\n{text}\n{match[3]}"

    return BLOCK.sub(made, page)


def pages() -> list[Path]:
    """Every page that holds a generated part."""
    front = [HERE.parent / name for name in ("README.md", "CONTRIBUTING.md")]
    found = [*front, *sorted(HERE.rglob("*.md"))]
    return [page for page in found if BLOCK.search(page.read_text("utf-8"))]


def main(check: bool) -> int:
    """Writes the pages that are out of date, or only names them; the exit status."""
    stale = [page for page in pages() if generated(text := page.read_text("utf-8")) != text]
    for page in stale:
        print(f"{page.name} {'is out of date' if check else 'written'}")
        if not check:
            page.write_text(generated(page.read_text("utf-8")), encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
