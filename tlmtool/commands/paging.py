"""The page of the results of one run, in its folder: of a study, of budgets, stages or points."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tlmtool.commands import compare
from tlmtool.failure import NotLoadable, Usage
from tlmtool.files.writing import write_whole
from tlmtool.report.page import page
from tlmtool.report.report import Report

NOTHING = "No result has a figure of a model."


def check_page(folder: Path) -> None:
    """Raises Usage where a folder holds a page that tlm did not write, which would be replaced."""
    try:
        compare.check_page(str(folder / compare.PAGE))
    except Usage:
        what = f"--out {folder} holds {compare.PAGE}, which tlm did not write"
        raise Usage(f"{what}: move it away, or give another --out") from None


def add_page(results: Mapping[str, Report], folder: Path, failed: Iterable[str] = ()) -> bool:
    """Put the page of {folder: its report} into a folder. `failed`: sentences on what has no
    result. Without these and without a figure there is no page, also none of an earlier run;
    returns whether there is one."""
    file, failed = folder / compare.PAGE, [*failed]
    try:
        found = compare.beside(results)
    except NotLoadable:
        if failed:
            write_whole(file, page(folder.name, NOTHING, [], [], failed, []))
        else:
            file.unlink(missing_ok=True)
        return bool(failed)
    compare.write_page(replace(found, notes=[*failed, *found.notes]), file, folder.name)
    return True
