"""What is told without any work: `tlm info`, `tlm doctor`, and the schema of `tlm run`."""

import json
from typing import Any

import typer

from tlmtool.cli.terminal import show, told


def inform(verb: str, given: dict[str, Any]) -> None:
    """Prints what a folder, a file or a named model is."""
    with told(bool(given["verbose"]), bool(given["quiet"])):
        from tlmtool.commands.info import info

        report = info(given["model"])
    show(report, bool(given["as_json"]), bool(given["verbose"]))


def examine(verb: str, given: dict[str, Any]) -> None:
    """Prints what this machine has, and what is missing."""
    with told(bool(given["verbose"]), bool(given["quiet"])):
        from tlmtool.commands.doctor import doctor

        report = doctor()
    show(report, bool(given["as_json"]), bool(given["verbose"]))


def print_schema(asked: bool) -> None:
    """Prints the JSON schema of recipe files, and ends."""
    if asked:
        from tlmtool.recipe.editors import json_schema

        typer.echo(json.dumps(json_schema(), indent=1))
        raise typer.Exit
