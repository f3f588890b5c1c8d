"""The page of the results of one run, in its folder: of a study, of budgets, stages or points."""

from pathlib import Path

from tlmtool.commands import compare
from tlmtool.failure import Usage


def check_page(folder: Path) -> None:
    """Raises Usage where a folder holds a page that tlm did not write, which would be replaced."""
    try:
        compare.check_page(str(folder / compare.PAGE))
    except Usage:
        what = f"--out {folder} holds {compare.PAGE}, which tlm did not write"
        raise Usage(f"{what}: move it away, or give another --out") from None
