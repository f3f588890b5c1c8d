"""The commands `tlm info` and `tlm doctor`: what a folder is, and what this machine has."""

from typing import Any

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
