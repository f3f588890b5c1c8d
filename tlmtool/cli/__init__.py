"""The command `tlm`: flags, terminal, signals, and failures as sentences."""

from tlmtool.cli.app import COMMANDS, main, run

__all__ = ["COMMANDS", "main", "run"]
