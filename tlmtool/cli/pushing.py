"""The command `tlm push`: what goes to the Hub, and whether it arrived."""

import json
import sys
from typing import Any

from tlmtool.cli.terminal import console, told
from tlmtool.failure import Usage


def push_folder(verb: str, given: dict[str, Any]) -> None:
    """Uploads a folder, and prints its files."""
    with told(bool(given["verbose"]), bool(given["quiet"])):
        if given["private"] and given["public"]:
            raise Usage("--private and --public contradict each other: give one of them")
        from tlmtool.commands.push import push

        found = push(
            given["folder"],
            given["id"],
            private=not given["public"],
            dry_run=bool(given["dry_run"]),
        )
    if given["as_json"]:
        sys.stdout.write(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        from rich.text import Text

        from tlmtool.report.views import lines

        screen = console()
        for row in lines(found.view(), screen.width)[1:]:
            screen.print(Text(row), soft_wrap=True)
        screen.print(Text(found.said()), soft_wrap=True)
    sys.stdout.flush()
