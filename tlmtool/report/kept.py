"""Reports of earlier runs, read back from `report.json`."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

from tlmtool.failure import Failure, NotLoadable
from tlmtool.files.kept import Kept, read
from tlmtool.report.layout import SCHEMA_VERSION
from tlmtool.report.parts.stages import Stage, Stages
from tlmtool.report.report import Report


class _Report(Kept):
    schema_version: int
    verb: str
    recipe: dict[str, Any]


def read_report(file: Path, verb: str) -> Report:
    """The report of a result that is done. It can be shown and checked as a new one can.

    Raises NotLoadable for a report of another version or verb, and for one that was changed so
    that it is not a report any more."""
    told = (f"is no report of tlm {verb}", "remove its folder, or --overwrite replaces it")
    data = read(file, _Report, *told)
    if data["verb"] != verb:
        raise NotLoadable(f"{file} {': '.join(told)}")
    if data["schema_version"] != SCHEMA_VERSION:
        raise NotLoadable(f"{file} was written by another version of tlm: {told[1]}")
    try:  # a part may have the right types and still not be one that can be shown
        found = Report.read(data)
        _show(found)
        _show(Report("run", [Stages(stages=(Stage(name="x", report=found),))]))
    except Exception as error:
        raise NotLoadable(f"{file} {': '.join(told)}") from error
    return found


def _show(found: Report) -> None:
    from rich.console import Console

    nowhere = Console(file=io.StringIO(), width=100)
    for full in (False, True):
        found.table(nowhere, full=full)
    found.to_json()
    with suppress(Failure):
        found.check("score>0")
