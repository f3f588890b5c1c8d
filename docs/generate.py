"""Writes the generated parts of the docs: the options of each command and the lists of names.

    python docs/generate.py           # after a change of a help text, a flag or a registry
    python docs/generate.py --check   # exit 1, and name the pages that are out of date

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a page
is written by hand. `tests/test_docs.py` holds the pages to this.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BLOCK = re.compile(r"(<!-- generated: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(*rows: tuple[str, ...]) -> str:
    """A table of Markdown; the first row is its head."""
    head, *body = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def options(verb: str) -> str:
    """What `tlm VERB --help` says: what it does, then its options by section, in that order."""
    from typer.main import get_command

    from tlmtool.cli.app import app

    command: Any = get_command(app)
    command = command.commands[verb]
    sections: dict[str, list[tuple[str, ...]]] = {}
    for each in command.params:
        if "--help" in each.opts or getattr(each, "hidden", False):
            continue
        argument = not each.opts[0].startswith("-")
        metavar = (each.metavar or "").strip()
        words = [metavar] if argument else [*each.opts, metavar]
        spelled = " ".join(word for word in words if word)
        section = getattr(each, "rich_help_panel", None) or "Options"
        sections.setdefault("Argument" if argument else section, []).append(
            (f"`{spelled}`", _plain(each.help or ""))
        )
    parts = [f"{_plain(command.help or '')}\n"]
    for section, rows in sections.items():
        parts.append(table((section, "meaning"), *rows))
    return "\n".join(parts)


def _plain(help: str) -> str:
    """Help in one line, its markup dropped; globs are no emphasis."""
    return " ".join(re.sub(r"\[/?\w*\]", "", help).split()).replace("*", r"\*")


def methods() -> str:
    """The decompositions, each with the first line of its file."""
    from tlmtool.recipe.compression import decompositions

    rows = [(f"`{name}`", line) for name, line in decompositions().items()]
    return table(("method", "what it is"), *rows)


def families() -> str:
    """The model types of the table of architectures, and which of them take tensor attention."""
    from tlmtool.models.architectures import ARCHITECTURES

    rows = [
        (f"`{name}`", f"no: {each.refuses}" if each.refuses else "yes")
        for name, each in ARCHITECTURES.items()
    ]
    return table(("family", "takes tensor attention"), *rows)


def metrics() -> str:
    """The metrics, each in words."""
    from tlmtool.tasks.metrics import METRICS

    rows = [(f"`{name}`", metric.words) for name, metric in METRICS.items()]
    return table(("metric", "what it is"), *rows)


def keys() -> str:
    """Every key of a recipe, its flag, and the verbs that read it."""
    from tlmtool.recipe.schema import Recipe
    from tlmtool.recipe.setting import settings_of
    from tlmtool.recipe.verbs import VERBS

    rows = [
        (
            f"`{each.path}`",
            f"`{each.name}`" if each.name != each.path else "only in a recipe file",
            "all" if len(each.verbs) == len(VERBS) else ", ".join(each.verbs),
        )
        for each in settings_of(Recipe)
    ]
    return table(("key", "flag", "read by"), *rows)


LISTS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "families": families,
    "metrics": metrics,
    "keys": keys,
}


def generated(page: str) -> str:
    """The text of a page with each of its generated parts made anew."""

    def made(match: re.Match[str]) -> str:
        kind, _, verb = match[2].partition(" ")
        text = options(verb) if kind == "options" else LISTS[kind]()
        return f"{match[1]}\n{text}\n{match[3]}"

    return BLOCK.sub(made, page)


def pages() -> list[Path]:
    """Every page that holds a generated part."""
    return [page for page in sorted(HERE.rglob("*.md")) if BLOCK.search(page.read_text("utf-8"))]


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
