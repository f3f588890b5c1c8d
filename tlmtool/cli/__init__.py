"""The command `tlm`: flags, terminal, signals, and failures as sentences."""

from tlmtool.cli.app import main, run

__all__ = ["main", "run"]
