"""The command `tlm compare`: reports side by side, on the terminal and as a page."""

import sys
from typing import Any

from tlmtool.cli.terminal import console, told
from tlmtool.failure import MissingDependency, Usage


def compare_results(verb: str, given: dict[str, Any]) -> None:
    """Prints results side by side, and writes the page and the pictures that are asked for."""
    verbose, quiet = bool(given["verbose"]), bool(given["quiet"])
    kind = "json" if given["as_json"] else given["format"] or "table"
    with told(verbose, quiet):
        from tlmtool.commands import compare as command
        from tlmtool.report.plots import drawable

        if kind not in command.FORMATS:
            raise Usage(f"--format is {kind}; it is one of {', '.join(command.FORMATS)}")
        page = None if given["out"] is None else command.check_page(given["out"])
        if given["plots"] and not drawable():
            raise MissingDependency("--plots needs the plots extra: pip install 'tlmtool[plots]'")
        found = command.compare(
            given["folders"],
            baseline=given["baseline"],
            where=given["where"] or (),
            sort=given["sort"],
        )
        written = []
        if page:
            command.write_page(found, page, page.stem)
            written.append(str(page))
        if given["plots"]:
            written += map(str, command.write_pictures(found, command.path_of(given["plots"])))
    if kind == "table":
        _show(found)
    else:
        sys.stdout.write(found.text(kind) + "\n")
    sys.stdout.flush()
    if written and not quiet:
        print("\n".join(written), file=sys.stderr)


def _show(found: Any) -> None:
    from rich.text import Text

    from tlmtool.report.views import lines

    screen = console()
    for view in found.views:
        header, *rows = lines(view, screen.width)
        screen.print(Text(view.title, style="bold"))
        screen.print(Text(header, style="dim"), soft_wrap=True)
        for row in rows:
            screen.print(Text(row), soft_wrap=True)
        for line in filter(None, view.note.split("\n")):
            screen.print(Text(line, style="dim"))
        screen.print()
    for note in found.notes:
        screen.print(Text(f"note: {note}", style="yellow"))
